//! The process of a gateway: how it is signalled, ends and begins again, and what the system knows of it.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;

use command_fds::{CommandFdExt, FdMapping};
use serde_json::Value;

use super::setup::{Ran, STARTS, Setup};
use super::{Gateway, until};

impl Gateway {
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.process().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// The process that accepts.
    pub(crate) fn process(&self) -> u32 {
        self.successors.last().copied().unwrap_or(self.child.id())
    }

    /// Hands over to another process.
    pub(crate) async fn hand_over(&mut self) {
        let before = self.successors.len();
        self.signal("USR2");
        until("it hands over", async || {
            let log = self.log();
            let lines = log.lines().filter(|line| line.contains("handed over; draining"));
            let ids = lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["process.id"].as_u64().unwrap());
            self.successors = ids.map(|id| u32::try_from(id).unwrap()).collect();
            self.successors.len() > before
        })
        .await;
    }

    /// Whether processes that it handed over to run.
    pub(crate) fn successors_run(&self) -> usize {
        let runs = |id: &&u32| {
            // one that has ended may not have been taken note of by its parent
            std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        };
        self.successors.iter().filter(runs).count()
    }

    /// Kills the process without warning, and starts another one on what it left behind.
    pub(crate) async fn killed_and_started_again(&mut self) {
        self.killed();
        self.started_again().await;
    }

    /// Kills the process without warning.
    pub(crate) fn killed(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts another process on what one that has ended left behind.
    pub(crate) async fn started_again(&mut self) {
        let (setup, dir) = (self.setup.clone(), self.dir.path().to_owned());
        let started = tokio::task::spawn_blocking(move || (0..STARTS).find_map(|_| setup.spawn(&dir)));
        (self.child, self.addr, self.admin) = started.await.unwrap().expect("the gateway starts again");
    }

    /// Runs the program beside it, with its variables; gives the exit code.
    pub(crate) async fn run(&self, arguments: &'static [&'static str]) -> Option<i32> {
        let mut command = self.setup.command(self.dir.path(), self.addr, self.admin);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        tokio::task::spawn_blocking(move || command.status().unwrap().code()).await.unwrap()
    }

    /// Runs the program beside it, in its directory and with its variables; gives what it said.
    pub(crate) async fn ran(&self, arguments: &[&str]) -> Ran {
        self.setup.run_in(self.dir.path(), arguments).await
    }

    /// Runs the program beside it, with further variables; gives the exit code, and what it said.
    pub(crate) async fn said(
        &self,
        arguments: &'static [&'static str],
        variables: &'static [(&'static str, &'static str)],
    ) -> (Option<i32>, String) {
        let mut command = self.setup.command(self.dir.path(), self.addr, self.admin);
        command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// Threads of the process.
    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    /// Starts a second process on the same files: one that takes over, as far as it knows, so that both go on.
    pub(crate) async fn beside(&self) -> Self {
        let (setup, dir) = (self.setup.clone(), Arc::clone(&self.dir));
        let started = tokio::task::spawn_blocking(move || {
            let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
            let [addr, admin] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
            let [public, administration] = listeners.map(OwnedFd::from);
            let ready = OwnedFd::from(UnixDatagram::unbound().unwrap());
            let mappings = [public, administration, ready].into_iter().zip(3..);
            let mut command = setup.command(dir.path(), addr, admin);
            command
                .env("LISTEN_FDS", "3")
                .env("LISTEN_FDNAMES", "public:admin:ready")
                .fd_mappings(mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect())
                .unwrap();
            Setup::started(command, dir.path()).map(|child| ((child, addr, admin), Arc::clone(&dir), setup.clone()))
        });
        let ((child, addr, admin), dir, setup) = started.await.unwrap().expect("a second gateway starts");
        Self { child, addr, admin, dir, setup, successors: vec![] }.healthy().await
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// A number of the process's memory, in bytes.
    pub(crate) fn memory(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Connections over TCP that it holds, those that wait for their end included. Listeners do not count, nor do the
    /// sockets of runtimes for signals: services make theirs while the first requests are served already.
    pub(crate) fn sockets(&self) -> usize {
        const LISTENS: &str = "0A";
        let process = format!("/proc/{}", self.child.id());
        let connections: HashSet<String> = ["tcp", "tcp6"]
            .iter()
            .filter_map(|table| std::fs::read_to_string(format!("{process}/net/{table}")).ok())
            .flat_map(|table| table.lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                (*fields.get(3)? != LISTENS).then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
            })
            .collect();
        let open = std::fs::read_dir(format!("{process}/fd")).unwrap();
        open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|path| connections.contains(path.to_string_lossy().as_ref()))
            .count()
    }

    /// File descriptors that it holds.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Time of the processor that it has used, in ticks of 10 ms.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Lets it have so many file descriptors at most.
    pub(crate) fn limit_files(&self, most: usize) {
        let limit = format!("--nofile={most}:");
        let set = Command::new("prlimit").args(["--pid", &self.child.id().to_string(), &limit]).status().unwrap();
        assert!(set.success());
    }

    /// Lets the peak of its memory begin again from now.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}
