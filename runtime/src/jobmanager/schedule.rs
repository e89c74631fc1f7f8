//! Which taskmanager runs which slot of an attempt. Pure.

/// A taskmanager that takes tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    pub slots: u32,
}

/// Not enough slots are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job needs {needed} slots and {registered} are registered: {} more are missing", needed - registered)]
pub struct TooFewSlots {
    pub needed: u32,
    pub registered: u32,
}

/// For each of `needed` slots the position of its taskmanager in `offers`: an even spread relative to their sizes, neighbouring
/// slots together. Deterministic.
pub fn place(needed: u32, offers: &[Offer]) -> Result<Vec<u32>, TooFewSlots> {
    let registered = offers.iter().fold(0u32, |sum, o| sum.saturating_add(o.slots));
    if registered < needed {
        return Err(TooFewSlots { needed, registered });
    }
    let mut used = vec![0u32; offers.len()];
    for _ in 0..needed {
        // the one with the smallest part of its slots in use: used/slots, compared crosswise
        let best = (0..offers.len()).filter(|&i| used[i] < offers[i].slots).min_by(|&a, &b| {
            let (x, y) = (
                u64::from(used[a] + 1) * u64::from(offers[b].slots),
                u64::from(used[b] + 1) * u64::from(offers[a].slots),
            );
            x.cmp(&y).then(a.cmp(&b))
        });
        if let Some(i) = best {
            used[i] += 1;
        }
    }
    Ok(used.iter().enumerate().flat_map(|(i, &n)| std::iter::repeat_n(i as u32, n as usize)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(slots: &[u32]) -> Vec<Offer> {
        slots.iter().map(|&slots| Offer { slots }).collect()
    }

    #[test]
    fn spreads_evenly_and_keeps_neighbours_together() {
        assert_eq!(place(4, &offers(&[4, 4])).unwrap(), [0, 0, 1, 1]);
        assert_eq!(place(3, &offers(&[2, 2, 2])).unwrap(), [0, 1, 2]);
        assert_eq!(place(3, &offers(&[1, 8])).unwrap(), [1, 1, 1]);
        assert_eq!(place(2, &offers(&[1, 1])).unwrap(), [0, 1]);
        assert_eq!(place(0, &offers(&[])).unwrap(), [0u32; 0]);
    }

    #[test]
    fn too_few_slots_say_how_many_are_missing() {
        let e = place(5, &offers(&[2, 1])).unwrap_err();
        assert_eq!(e, TooFewSlots { needed: 5, registered: 3 });
        assert_eq!(e.to_string(), "the job needs 5 slots and 3 are registered: 2 more are missing");
    }

    #[test]
    fn never_gives_more_than_a_taskmanager_has() {
        for sizes in [&[1, 2, 3][..], &[5], &[1; 7], &[0, 3, 0, 2]] {
            let total: u32 = sizes.iter().sum();
            for needed in 0..=total {
                let placed = place(needed, &offers(sizes)).unwrap();
                assert_eq!(placed.len(), needed as usize);
                for (i, &size) in sizes.iter().enumerate() {
                    assert!(placed.iter().filter(|&&p| p == i as u32).count() <= size as usize);
                }
            }
        }
    }
}
