//! critest, the conformance tests of CRI, with Wherry's handler and with runc's.

use std::thread;
use wherry_k8s::critest::Results;
use wherry_k8s::{Cluster, critest};

#[test]
fn critest_passes_as_many_specifications_as_with_runc() {
    let cluster = Cluster::shared();
    let [first, second] = cluster.lone_nodes() else { panic!("two nodes") };
    let (wasm, runc) = thread::scope(|scope| {
        let wasm = scope.spawn(|| critest::run(cluster, first, "wasm-features"));
        let runc = scope.spawn(|| critest::run(cluster, second, "runc"));
        (wasm.join().expect("a report"), runc.join().expect("a report"))
    });
    let passed = |found: &Results| found.values().filter(|result| result.is_ok()).count();
    println!(
        "critest: wasm {} of {}, runc {} of {}",
        passed(&wasm),
        wasm.len(),
        passed(&runc),
        runc.len()
    );
    let mut worse = Vec::new();
    for name in runc.iter().filter(|(_, result)| result.is_ok()).map(|(name, _)| name) {
        match wasm.get(name) {
            Some(Ok(())) => {}
            Some(Err(failure)) => worse.push(format!("{name}: {failure}")),
            None => worse.push(format!("{name}: skipped")),
        }
    }
    assert!(worse.is_empty(), "these pass with runc alone:\n{}", worse.join("\n"));
    // A node on which critest itself cannot work proves nothing.
    assert!(passed(&runc) >= 90, "with runc only {} pass: {runc:#?}", passed(&runc));
}
