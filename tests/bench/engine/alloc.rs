//! Counts allocations, those of the whole process and of each thread.
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

struct Counting;

static ALL: AtomicU64 = AtomicU64::new(0);
thread_local! {
    // without a destructor and set up by the compiler: it allocates nothing itself
    static HERE: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALL.fetch_add(1, Relaxed);
    HERE.with(|here| here.set(here.get() + 1));
}

// SAFETY: hands everything to the system allocator
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of this process so far.
#[allow(dead_code, reason = "a program asks for one or the other")]
pub fn allocations() -> u64 {
    ALL.load(Relaxed)
}

/// Allocations of this thread so far.
#[allow(dead_code, reason = "a program asks for one or the other")]
pub fn allocations_here() -> u64 {
    HERE.with(Cell::get)
}
