//! Orders, each with what another service knows about its customer. See README.md beside this file.
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use weir::prelude::*;

mod directory;
use directory::Directory;

/// A line of the input.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Record, Serialize, Deserialize)]
struct Order {
    customer: u64,
    cents: u64,
}

/// A line of the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Record, Serialize)]
struct Enriched {
    customer: u64,
    /// None: the directory does not know the customer.
    name: Option<Str>,
    cents: u64,
}

/// At most `capacity` questions are under way in each subtask. One that fails is asked up to three times more, and one that
/// has no answer after `timeout`, with all its retries, fails the job, or is left out with `skip`.
fn enriched(
    orders: &Stream<Order>,
    directory: Directory,
    capacity: usize,
    timeout: Duration,
    skip: bool,
) -> Stream<Enriched> {
    let options = AsyncOptions::unordered(capacity, timeout).retry(3, Duration::from_millis(10));
    let options = if skip { options.skip_failures() } else { options };
    let directory = Arc::new(directory);
    orders.async_io("names", options, move |order: Order| {
        let directory = directory.clone();
        async move {
            let name = directory.name_of(order.customer).await?;
            Ok(vec![Enriched { customer: order.customer, name: name.map(Str::from), cents: order.cents }])
        }
    })
}

/// The job's own arguments.
#[derive(clap::Args)]
struct Arguments {
    /// HOST:PORT of the directory; `async-enrichment serve HOST:PORT` runs one.
    #[arg(long)]
    directory: String,
    /// CSV file with the columns customer, cents; plain or compressed. Without it orders are made up.
    #[arg(long)]
    input: Option<String>,
    /// Folder for the output: part-* files of JSON lines.
    #[arg(long)]
    output: String,
    /// Questions under way at most, in each subtask.
    #[arg(long, default_value_t = 100)]
    capacity: usize,
    /// Leave out orders whose question fails; without it the job fails.
    #[arg(long)]
    skip: bool,
    /// Orders to make up.
    #[arg(long, default_value_t = 100_000)]
    count: u64,
}

/// Order number `i`, made up.
fn order(i: u64) -> Order {
    let r = weir::connectors::random(5, i);
    Order { customer: r % 1000, cents: (r >> 32) % 10_000 }
}

fn async_enrichment(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let orders = match &args.input {
        Some(file) => job.source("orders", FileSource::csv::<Order>(file)),
        None => job.source("orders", Generator::new(args.count, order)),
    };
    let directory = Directory::new(args.directory.clone());
    enriched(&orders, directory, args.capacity, Duration::from_secs(10), args.skip)
        .sink("out", FileSink::json_lines(&args.output));
    Ok(())
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next()) {
        (Some("serve"), Some(address)) => directory::serve_for_ever(&address),
        _ => weir::main(async_enrichment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use directory::{Answer, Server};
    use weir::connectors::Collect;
    use weir::testing::{Cluster, OperatorHarness, TestSource};

    const LONG: Duration = Duration::from_secs(60);

    fn harness(server: &Server, timeout: Duration, skip: bool) -> OperatorHarness<Order, Enriched> {
        let address = server.address.to_string();
        OperatorHarness::new(move |orders: Stream<Order>| {
            enriched(&orders, Directory::new(address.clone()), 4, timeout, skip)
        })
        .unwrap()
    }
    fn order(customer: u64) -> Order {
        Order { customer, cents: 100 * customer }
    }
    fn enriched_as(customer: u64, name: Option<&str>) -> Enriched {
        Enriched { customer, name: name.map(Str::from), cents: 100 * customer }
    }

    #[test]
    fn each_order_gets_its_name_also_when_the_service_hangs_up_now_and_then() {
        // customer 3 is answered only when asked for the third time
        let server = Server::start(|customer, times| match customer {
            2 => Answer::Unknown,
            3 if times < 3 => Answer::HangUp,
            _ => Answer::Name(format!("customer {customer}")),
        });
        let mut h = harness(&server, LONG, false);
        h.push_all((1..=4).map(order)).unwrap();
        h.wait_for_output(4).unwrap();
        let mut found = h.output().unwrap();
        found.sort();
        let names = [Some("customer 1"), None, Some("customer 3"), Some("customer 4")];
        assert_eq!(found, (1..=4).zip(names).map(|(c, n)| enriched_as(c, n)).collect::<Vec<_>>());
        assert_eq!(server.asked(3), 3);
    }

    #[test]
    fn a_question_without_an_answer_fails_the_job_or_is_left_out() {
        let server = Server::start(|_, _| Answer::Never);
        let mut h = harness(&server, Duration::from_millis(200), true);
        h.push(order(2)).unwrap();
        h.finish().unwrap();
        assert!(h.output().unwrap().is_empty());
        let mut h = harness(&server, Duration::from_millis(200), false);
        let e = h.push(order(2)).and_then(|()| h.finish()).unwrap_err();
        assert!(e.message.contains("names") && e.message.contains("no answer within 200ms"), "{e}");
    }

    #[test]
    fn orders_whose_questions_are_under_way_when_all_is_killed_are_asked_for_again() {
        const COUNT: u64 = 2_000;
        let server = Server::start(|customer, _| Answer::Name(format!("customer {customer}")));
        let (orders, out) = (TestSource::new(), Collect::new());
        let (from, to, address) = (orders.clone(), out.clone(), server.address.to_string());
        let mut cluster = Cluster::of(2, move |job| {
            let orders = job.source("orders", from.clone());
            enriched(&orders, Directory::new(address.clone()), 50, LONG, false).sink("out", to.clone());
        })
        .unwrap();
        (0..COUNT).for_each(|i| orders.push(super::order(i)));
        cluster.checkpoint().unwrap();
        cluster.restart(1).unwrap();
        orders.end();
        cluster.finish().unwrap();
        let mut found = out.records();
        found.sort();
        let name = |o: Order| Enriched {
            customer: o.customer,
            name: Some(format_str!("customer {}", o.customer)),
            cents: o.cents,
        };
        let mut expected: Vec<Enriched> = (0..COUNT).map(super::order).map(name).collect();
        expected.sort();
        assert!(found == expected, "{} of {}", found.len(), expected.len());
    }
}
