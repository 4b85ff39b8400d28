//! A store of a thousand images that share layers: what listing, collecting and counting cost without a process around
//! them. `LAYERFS_MAKE_STORE=DIR` makes such a store for `benches/compare` and measures nothing.

#[path = "../tests/harness/crowd.rs"]
mod crowd;

use std::collections::HashSet;
use std::path::Path;

use criterion::Criterion;
use layerfs::oci::Platform;
use layerfs::store::Store;

const IMAGES: usize = 1000;

fn measure(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    crowd::make(dir.path(), IMAGES);
    let store = Store::open(dir.path()).expect("we made it");
    let mut group = criterion.benchmark_group("a thousand images");
    group.sample_size(20);
    group.bench_function("open", |bench| bench.iter(|| Store::open(dir.path()).expect("we made it")));
    group.bench_function("names", |bench| bench.iter(|| store.refs().expect("we made it")));
    group.bench_function("summaries", |bench| {
        let refs = store.refs().expect("we made it");
        let summary = |descriptor| store.summary(descriptor, &Platform::host()).expect("we made it");
        bench.iter(|| refs.iter().filter_map(|(_, descriptor)| summary(descriptor)).count());
    });
    group.bench_function("unneeded", |bench| {
        bench.iter(|| assert_eq!(store.unneeded(&HashSet::new()).expect("we made it").total().blobs, 0));
    });
    group.bench_function("usage", |bench| bench.iter(|| store.usage().expect("we made it")));
    group.finish();
}

fn main() {
    if let Some(root) = std::env::var_os("LAYERFS_MAKE_STORE") {
        crowd::make(Path::new(&root), IMAGES);
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    measure(&mut criterion);
    criterion.final_summary();
}
