//! Bytes a document, counted by the allocator: what the steps over all documents hold at most (lib.rs says how much).

use dedup::{Candidate, Components, Edge, KeyEntry, Stars, cluster_sizes, follow_equal, mark_equal, unmarked};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const DOCUMENTS: usize = 1_000_000;
/// Documents of one key partition.
const PARTITION: usize = 1_000;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// Tests are measured one after the other.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes a document that `run` held at once.
fn bytes_a_document(run: impl FnOnce()) -> f64 {
    let _alone = ALONE.lock().unwrap();
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    run();
    (MOST.load(Relaxed) - before) as f64 / DOCUMENTS as f64
}

/// A stream of edges sorted by (b, a): each document resembles one that is half as far, every third one also its neighbour.
fn edges() -> impl Iterator<Item = Edge> {
    let edge = |a: u32, b: u32| Edge { pair: Candidate { a, b, shared_bands: 1 }, jaccard: Some(0.9) };
    (1..DOCUMENTS as u32).flat_map(move |b| {
        let near = (b % 3 == 0 && b > 2).then(|| edge(b - 1, b));
        std::iter::once(edge(b / 2, b)).filter(move |e| e.pair.a + 1 < b).chain(near)
    })
}

/// Exact duplicates, partition by partition.
fn first_of_each() -> Vec<u32> {
    let mut first = unmarked(DOCUMENTS);
    for partition in 0..DOCUMENTS / PARTITION {
        let documents = (0..PARTITION).map(|n| n * (DOCUMENTS / PARTITION) + partition);
        let mut entries: Vec<KeyEntry> =
            documents.map(|document| KeyEntry::new(document as u128 % 7919, document as u32)).collect();
        mark_equal(&mut entries, &mut first);
    }
    first
}

#[test]
fn verified_dedup_holds_sixteen_bytes_a_document_with_the_lengths_of_all_sets() {
    let used = bytes_a_document(|| {
        let lengths = vec![600_u32; DOCUMENTS];
        let first = first_of_each();
        let mut stars = Stars::new(DOCUMENTS);
        let removals = edges().filter_map(|edge| stars.push(&edge)).count();
        let (_, mut kept) = stars.finish();
        assert!(removals > DOCUMENTS / 3, "{removals}");
        follow_equal(&first, &mut kept);
        let sizes = cluster_sizes(&kept);
        assert_eq!(sizes.iter().map(|&size| size as usize).sum::<usize>(), lengths.len());
    });
    assert!(used <= 16.1, "{used}");
    assert!(used >= 8.0, "the allocator counts: {used}");
}

#[test]
fn classical_dedup_holds_twelve_bytes_a_document() {
    let used = bytes_a_document(|| {
        let first = first_of_each();
        let mut components = Components::new(DOCUMENTS);
        edges().for_each(|edge| components.join(edge.pair.a, edge.pair.b));
        let mut kept = components.finish();
        follow_equal(&first, &mut kept);
        let sizes = cluster_sizes(&kept);
        assert_eq!(sizes.iter().map(|&size| size as usize).sum::<usize>(), DOCUMENTS);
    });
    assert!(used <= 12.1, "{used}");
}
