//! The base of the other tests: the daemons run a native container under runc, without Wherry. A
//! failure here is a fault of the daemons or of the tests themselves.

mod shared {
    use wherry_e2e::on_all_daemons;
    use wherry_testing::{Daemon, Run, busybox};

    const RUNC: &str = "io.containerd.runc.v2";

    fn prints_hello(daemon: &dyn Daemon) {
        let outcome = daemon.run(&Run::new(&busybox()).runtime(RUNC).args(&["echo", "hello"]));
        assert_eq!(outcome.success(), "hello\n");
        assert_eq!(outcome.err(), "");
    }

    fn hands_the_exit_code_on(daemon: &dyn Daemon) {
        let outcome = daemon.run(&Run::new(&busybox()).runtime(RUNC).args(&[
            "sh",
            "-c",
            "echo no >&2; exit 7",
        ]));
        assert_eq!((outcome.code, outcome.err().as_str()), (7, "no\n"));
    }

    fn reads_stdin_to_its_end(daemon: &dyn Daemon) {
        let run = Run::new(&busybox()).runtime(RUNC).args(&["wc", "-c"]).stdin(vec![b'x'; 200_000]);
        assert_eq!(daemon.run(&run).success().trim(), "200000");
    }

    fn echoes_what_is_said_to_it(daemon: &dyn Daemon) {
        let mut container = daemon.start(&Run::new(&busybox()).runtime(RUNC).args(&["cat"]));
        container.say(b"first\n");
        container.wait_for_output("first\n");
        container.say(b"second\n");
        container.wait_for_output("second\n");
        assert_eq!(container.stdout(), b"first\nsecond\n");
        assert!(std::path::Path::new(&format!("/proc/{}", container.pid())).exists());
        container.kill("KILL");
        assert_eq!(container.wait(), 137);
    }

    on_all_daemons!(
        prints_hello,
        hands_the_exit_code_on,
        reads_stdin_to_its_end,
        echoes_what_is_said_to_it
    );
}

mod own {
    use containerd_shim_protos::api::{StateRequest, StateResponse};
    use containerd_shim_protos::ttrpc::Code;
    use wherry_e2e::shim::Shim;
    use wherry_e2e::{on_own_containerds, on_own_daemons};
    use wherry_testing::{Containerd, DEADLINE, Daemon, Leftovers, Run, busybox, wait_until};

    const RUNC: &str = "io.containerd.runc.v2";

    fn leaves_nothing_behind(daemon: &dyn Daemon) {
        daemon.run(&Run::new(&busybox()).runtime(RUNC).args(&["true"])).success();
        let leftovers = Leftovers::snapshot(daemon);
        daemon.run(&Run::new(&busybox()).runtime(RUNC).args(&["true"])).success();
        let container = daemon.start(&Run::new(&busybox()).runtime(RUNC).args(&["sleep", "1000"]));
        assert_eq!(container.shims().len(), 1, "{:?}", container.shims());
        container.remove();
        leftovers.assert_none_new();
    }

    fn keeps_its_tasks_over_a_restart(containerd: &Containerd) {
        let mut container = containerd.start(&Run::new(&busybox()).runtime(RUNC).args(&["cat"]));
        let (socket, _) = container.shim_address();
        assert!(socket.exists(), "{}", socket.display());
        let pid = container.pid();
        containerd.kill9();
        container.say(b"no client is attached\n");
        containerd.start_again();
        assert_eq!(container.pid(), pid);
        container.wait_for_output("no client is attached\n");
        let events = containerd.events();
        container.kill("KILL");
        wait_until("the exit event", DEADLINE, || {
            events.topics(container.id()).contains(&"/tasks/exit".to_owned())
        });
        assert_eq!(container.wait(), 137);
    }

    fn the_shims_api_can_be_called(daemon: &dyn Daemon) {
        let container = daemon.start(&Run::new(&busybox()).runtime(RUNC).args(&["sleep", "1000"]));
        let request = StateRequest { id: container.id().to_owned(), ..Default::default() };
        let state: StateResponse =
            Shim::of(&container).call("State", &request).expect("State answers");
        assert_eq!(i32::try_from(state.pid), Ok(container.pid()));
        let request = StateRequest { id: "missing".to_owned(), ..Default::default() };
        assert_eq!(Shim::of(&container).refused("State", &request).0, Code::NOT_FOUND);
    }

    on_own_daemons!(leaves_nothing_behind, the_shims_api_can_be_called);
    mod restart {
        use super::*;
        on_own_containerds!(keeps_its_tasks_over_a_restart);
    }
}
