//! The output of guests that end at once, of more of them than there are processors: a client that
//! reads late gets all of it.
//!
//! `SOAK_OUTPUTS` is the number of containers of each test.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use wherry_e2e::cri::{Cri, Member};
use wherry_e2e::images::hello;
use wherry_e2e::on_all_daemons;
use wherry_testing::{Daemon, Run};

/// How many containers run at the same time.
const AT_ONCE: usize = 10;
/// The containers of one pod, one after the other.
const IN_A_POD: usize = 10;

fn outputs() -> usize {
    std::env::var("SOAK_OUTPUTS").map_or(40, |text| text.parse().expect("a number"))
}

/// Calls `run` for each number below `count`, from several threads, and asserts that it never
/// returns a fault.
fn without_a_fault(count: usize, run: impl Fn(usize) -> Option<String> + Sync) {
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(number) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count)
                {
                    let fault = run(number);
                    faults.lock().expect("no thread panics with it").extend(fault);
                }
            });
        }
    });
    let faults = faults.into_inner().expect("no thread panics with it");
    assert!(faults.is_empty(), "{} of {count}: {}", faults.len(), faults.join("\n"));
}

fn no_output_of_a_short_life_is_lost(daemon: &dyn Daemon) {
    let run = Run::new(&hello());
    without_a_fault(outputs(), |_| {
        let outcome = daemon.run(&run);
        (outcome.code != 0 || outcome.out() != "hello\n").then(|| outcome.to_string())
    });
}

on_all_daemons!(no_output_of_a_short_life_is_lost);

fn no_line_of_a_containers_log_is_lost(cri: &Cri) {
    let image = hello();
    without_a_fault(outputs().div_ceil(IN_A_POD), |number| {
        let mut pod = cri.pod(&format!("output-{number}"));
        for number in 0..IN_A_POD {
            let name = format!("hello-{number}");
            let id = pod.run(&Member::new(&name, &image));
            assert_eq!(pod.wait(&id).exit_code, 0);
            pod.wait_for_log(&name, "stdout F hello\n");
        }
        pod.remove();
        None
    });
}

mod kubernetes {
    use super::no_line_of_a_containers_log_is_lost;

    wherry_e2e::on_containerd_versions!(
        version => ::wherry_e2e::cri::Cri::shared(version);
        no_line_of_a_containers_log_is_lost
    );
}
