//! Memory of tables, aligned to cache lines: an entry of 64 bytes lies in one line, where it would nearly always lie in two.
use allocator_api2::alloc::{AllocError, Allocator, Global};
use std::alloc::Layout;
use std::ptr::NonNull;

/// The global allocator, asked for whole cache lines.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lines;

const LINE: usize = 64;

fn aligned(layout: Layout) -> Result<Layout, AllocError> {
    layout.align_to(LINE).map_err(|_| AllocError)
}

// SAFETY: everything goes to `Global`, and a block is given back with the layout that it was asked for with
#[allow(unsafe_code)]
unsafe impl Allocator for Lines {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        Global.allocate(aligned(layout)?)
    }
    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if let Ok(layout) = aligned(layout) {
            // SAFETY: `at` came from `allocate` with the same layout
            unsafe { Global.deallocate(at, layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hashbrown::HashTable;

    #[test]
    fn entries_of_a_line_do_not_lie_across_two() {
        for capacity in [1, 3, 100, 3_584] {
            let mut table = HashTable::with_capacity_in(capacity, Lines);
            for n in 0..capacity as u64 {
                table.insert_unique(n.rotate_right(7), [n; 8], |e| e[0].rotate_right(7));
            }
            assert!(table.iter().all(|e| (&raw const *e).addr() % LINE == 0), "{capacity}");
        }
    }
}
