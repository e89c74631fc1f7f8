//! Limits that change while the job runs, checked for each card. See README.md beside this file.
use std::process::ExitCode;
use weir::prelude::*;

/// A line of the transactions.
#[derive(Clone, Debug, Record, Deserialize)]
struct Transaction {
    card: Str,
    country: Str,
    cents: u64,
}

/// A line of the rules: the limit for transactions in a country; none takes it back.
#[derive(Clone, Debug, Record, Deserialize)]
struct Rule {
    country: Str,
    max_cents: Option<u64>,
}

/// A line of the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Record, Serialize)]
struct Alert {
    card: Str,
    country: Str,
    cents: u64,
    max_cents: u64,
    /// Alerts of this card so far.
    alerts: u64,
}

/// Checks each transaction by the rules that are there when it comes.
struct Check {
    alerts: ValueState<Str, u64>,
}

impl KeyedBroadcastProcessFunction for Check {
    type Key = Str;
    type In = Transaction;
    type Broadcast = Rule;
    type Out = Alert;
    type BroadcastKey = Str;
    type BroadcastValue = u64;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Str>> {
        vec![&mut self.alerts]
    }
    fn process(
        &mut self,
        card: &KeyRef<'_, Str>,
        t: &Transaction,
        rules: &BroadcastState<Str, u64>,
        out: &mut Output<Alert>,
    ) -> Result<()> {
        if let Some(&max_cents) = rules.get(&t.country)
            && t.cents > max_cents
        {
            let alerts = self.alerts.get_mut_or_default(card);
            *alerts += 1;
            let (card, country) = (t.card.clone(), t.country.clone());
            out.push(Alert { card, country, cents: t.cents, max_cents, alerts: *alerts });
        }
        Ok(())
    }
    fn process_broadcast(
        &mut self,
        rule: &Rule,
        rules: &mut BroadcastState<Str, u64>,
        _: &mut Output<Alert>,
    ) -> Result<()> {
        match rule.max_cents {
            Some(max) => rules.put(rule.country.clone(), max),
            None => rules.remove(&rule.country),
        };
        Ok(())
    }
}

fn alerts(transactions: &Stream<Transaction>, rules: &Stream<Rule>) -> Stream<Alert> {
    let by_card = transactions.key_by(|t| &t.card);
    by_card.connect_broadcast(rules).process_function("check", || Check { alerts: ValueState::new("alerts") })
}

/// The job's own arguments.
#[derive(clap::Args)]
struct Arguments {
    /// CSV file with the columns card, country, cents; plain or compressed. Without it transactions are made up.
    #[arg(long)]
    transactions: Option<String>,
    /// CSV file with the columns country, max_cents (empty: no limit any more), in the order of their coming.
    #[arg(long)]
    rules: String,
    /// Folder for the output: part-* files of JSON lines.
    #[arg(long)]
    output: String,
    /// Transactions to make up.
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
}

/// Transaction number `i`, made up.
fn transaction(i: u64) -> Transaction {
    let r = weir::connectors::random(1, i);
    let country = ["DE", "FR", "US", "JP"][(r % 4) as usize];
    Transaction { card: format_str!("card-{}", (r >> 2) % 1000), country: country.into(), cents: (r >> 20) % 100_000 }
}

fn broadcast_rules(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let transactions = match &args.transactions {
        Some(file) => job.source("transactions", FileSource::csv::<Transaction>(file)),
        None => job.source("transactions", Generator::new(args.count, transaction).rate(100_000.0)),
    };
    // one subtask reads the rules: all others get them in one order
    let rules = job.source("rules", FileSource::csv::<Rule>(&args.rules)).parallelism(1);
    alerts(&transactions, &rules).sink("out", FileSink::json_lines(&args.output));
    Ok(())
}

fn main() -> ExitCode {
    weir::main(broadcast_rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir::connectors::Collect;
    use weir::testing::{Cluster, TestSource, TwoInputHarness};

    fn rule(country: &str, max_cents: Option<u64>) -> Rule {
        Rule { country: country.into(), max_cents }
    }
    fn pays(card: u64, country: &str, cents: u64) -> Transaction {
        Transaction { card: format_str!("card-{card}"), country: country.into(), cents }
    }

    #[test]
    fn a_rule_holds_in_every_subtask_until_it_is_taken_back() {
        let mut h =
            TwoInputHarness::with_parallelism(3, |t: Stream<Transaction>, r: Stream<Rule>| alerts(&t, &r)).unwrap();
        let all = |h: &mut TwoInputHarness<Transaction, Rule, Alert>, cents| {
            (0..20).for_each(|card| h.push1(pays(card, "DE", cents)).unwrap());
            h.output().unwrap().len()
        };
        assert_eq!(all(&mut h, 500), 0);
        h.push2(rule("DE", Some(400))).unwrap();
        assert_eq!((all(&mut h, 500), all(&mut h, 400)), (20, 0));
        let snapshot = h.snapshot().unwrap();
        let mut h = h.restore(&snapshot, 5).unwrap();
        assert_eq!(h.broadcast_state::<Str, u64>("check").unwrap().get(&"DE".into()), Some(&400));
        assert_eq!(all(&mut h, 500), 20);
        h.push2(rule("DE", None)).unwrap();
        assert_eq!(all(&mut h, 500), 0);
        let alerts = h.state("check", ValueState::<Str, u64>::new("alerts")).unwrap();
        assert_eq!((alerts.len(), alerts.get(&KeyRef::of(&"card-7".into()))), (20, Some(&2)));
    }

    #[test]
    fn rules_outlive_the_cluster() {
        let (transactions, rules, out) = (TestSource::new(), TestSource::new(), Collect::new());
        let (t, r, to) = (transactions.clone(), rules.clone(), out.clone());
        let mut cluster = Cluster::of(2, move |job| {
            let (transactions, rules) = (job.source("transactions", t.clone()), job.source("rules", r.clone()));
            alerts(&transactions, &rules).sink("out", to.clone());
        })
        .unwrap();
        rules.push(rule("FR", Some(100)));
        rules.wait_until_read().unwrap();
        cluster.checkpoint().unwrap();
        cluster.crash();
        cluster.restart(3).unwrap();
        transactions.push(pays(1, "FR", 101));
        transactions.push(pays(1, "FR", 100));
        transactions.push(pays(1, "FR", 102));
        transactions.end();
        rules.end();
        cluster.finish().unwrap();
        let found: Vec<_> = out.records().into_iter().map(|a| (a.cents, a.alerts)).collect();
        assert_eq!(found, [(101, 1), (102, 2)]);
    }
}
