//! The differences between a process of ours and one of runc's with the same options: intended
//! ones, with the reason, and faults.

/// The arguments of a program that sleeps, and its name in the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Wasm,
    Native,
}

impl Program {
    pub(super) fn words(self) -> [&'static str; 3] {
        match self {
            Program::Wasm => ["/kit.wasm", "sleep", "100000"],
            Program::Native => ["/bin/busybox", "sleep", "100000"],
        }
    }

    pub(super) fn name(self) -> &'static str {
        if self == Program::Wasm { "kit.wasm" } else { "busybox" }
    }
}

/// A process that is compared with runc's: its program and its container.
#[derive(Clone, Copy)]
pub(super) struct Subject {
    pub(super) program: Program,
    pub(super) docker: bool,
    /// Whether runc is 1.3, and not 1.1.
    pub(super) newest_runc: bool,
    /// The options of its container.
    pub(super) options: &'static [&'static str],
}

impl Subject {
    fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }

    fn is_wasm(&self) -> bool {
        self.program == Program::Wasm
    }

    /// Whether the container has a seccomp profile.
    fn has_profile(&self) -> bool {
        if self.docker {
            !self.has("seccomp=unconfined") && !self.has("--privileged")
        } else {
            self.has("--seccomp")
        }
    }
}

/// A difference between runc's process and ours.
pub(super) struct Difference {
    /// The name of the fact; `*` matches any characters but blanks.
    pub(super) fact: &'static str,
    pub(super) runc: &'static str,
    /// Our value: one of these, because engines differ.
    pub(super) ours: &'static [&'static str],
    /// The processes that the row applies to.
    pub(super) when: fn(&Subject) -> bool,
    pub(super) reason: &'static str,
}

/// The intended differences.
pub(super) const MEANT: &[Difference] = &[
    Difference {
        fact: "NoNewPrivs",
        runc: "0",
        ours: &["1"],
        when: |subject| {
            let given = if subject.docker {
                subject.has("no-new-privileges")
            } else {
                !subject.has("--allow-new-privs")
            };
            subject.is_wasm() && !given
        },
        reason: "an engine's own seccomp filter is added to the container's",
    },
    Difference {
        fact: "Seccomp",
        runc: "0",
        ours: &["2"],
        when: |subject| subject.is_wasm() && !subject.has_profile(),
        reason: "an engine's own seccomp filter is there without the container's",
    },
    Difference {
        fact: "Seccomp_filters",
        runc: "0",
        ours: &["1"],
        when: |subject| subject.is_wasm() && !subject.has_profile(),
        reason: "an engine's own seccomp filter is there without the container's",
    },
    Difference {
        fact: "Seccomp_filters",
        runc: "1",
        ours: &["2"],
        when: |subject| subject.is_wasm() && subject.has_profile(),
        reason: "an engine's own seccomp filter is added to the container's",
    },
    Difference {
        fact: "SigBlk",
        runc: "0000000000000000",
        ours: &["0000000200000000"],
        when: |subject| subject.is_wasm() && wherry_testing::engine() == "wasmedge",
        reason: "WasmEdge blocks SIGRTMIN while it runs a guest",
    },
    Difference {
        fact: "SigIgn",
        runc: "0000000000000000",
        ours: &["0000000000011000"],
        when: Subject::is_wasm,
        reason: "a guest gets an error in place of SIGPIPE, and the kernel reaps for it",
    },
    Difference {
        fact: "descriptor 0",
        runc: "pipe 00",
        ours: &["a named pipe for stdin 0100000"],
        when: |_| true,
        reason: "the guest gets the client's named pipes themselves",
    },
    Difference {
        fact: "descriptor 1",
        runc: "pipe 01",
        ours: &["a named pipe for stdout 0102001"],
        when: |_| true,
        reason: "the guest gets the client's named pipes themselves; O_NOCTTY changes nothing of a pipe",
    },
    Difference {
        fact: "descriptor 2",
        runc: "pipe 01",
        ours: &["a named pipe for stderr 0102001"],
        when: |_| true,
        reason: "the guest gets the client's named pipes themselves; O_NOCTTY changes nothing of a pipe",
    },
    Difference {
        fact: "other descriptors",
        runc: "",
        ours: &[
            "/, anon_inode, compiled code, socket",
            // Code that the dynamic loader has mapped needs no descriptor.
            "/, anon_inode",
            // An interpreter has no code, and WAMR no event loop.
            "/",
        ],
        when: |subject| subject.is_wasm() && !subject.has("--workdir"),
        reason: "the engine's own, which a guest cannot name: its root, its code, its event loop",
    },
    Difference {
        fact: "other descriptors",
        runc: "",
        ours: &[
            "/, /bin, /dev, /etc, /proc, /sys, /tmp, anon_inode, compiled code, socket",
            "/, /bin, /dev, /etc, /proc, /sys, /tmp, anon_inode",
            "/, /bin, /dev, /etc, /proc, /sys, /tmp",
        ],
        when: |subject| subject.is_wasm() && subject.has("--workdir"),
        reason: "the engine's own, and the working directory",
    },
    Difference {
        fact: "owner in /proc",
        runc: "1234 5678",
        ours: &["0 0"],
        when: |subject| subject.is_wasm() && subject.has("1234:5678"),
        reason: "a guest's process is not dumpable, so that native programs beside it cannot reach into it",
    },
    Difference {
        fact: "owner in /proc",
        runc: "1234 1234",
        ours: &["0 0"],
        when: |subject| subject.is_wasm() && subject.has("1234"),
        reason: "a guest's process is not dumpable, so that native programs beside it cannot reach into it",
    },
    Difference {
        fact: "oom_score_adj",
        runc: "1",
        ours: &["0"],
        when: |subject| !subject.docker,
        reason: "a configuration without a score gives containerd's, not that of the shim, which runc hands on",
    },
    Difference {
        fact: "mount / propagation",
        runc: "",
        ours: &["master"],
        when: |subject| subject.newest_runc,
        reason: "a mount of the host below the root's directory is seen, as with runc before 1.3",
    },
    Difference {
        fact: "mount /proc/acpi filesystem's options",
        runc: "nr_inodes=1,ro,size=4k",
        ours: &["ro"],
        when: |subject| subject.newest_runc && !subject.has("--privileged"),
        reason: "an empty read-only mask needs no bounds; a root that may mount can mount others",
    },
    Difference {
        fact: "mount /sys/firmware filesystem's options",
        runc: "nr_inodes=1,ro,size=4k",
        ours: &["ro"],
        when: |subject| subject.newest_runc && !subject.has("--privileged"),
        reason: "an empty read-only mask needs no bounds; a root that may mount can mount others",
    },
];

/// Differences that are faults. The fix of a fault removes its row.
pub(super) const KNOWN: &[Difference] = &[];
