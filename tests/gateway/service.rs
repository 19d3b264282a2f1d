//! What a service manager says to the process and hears from it: sockets that are handed over, and words to its socket.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use command_fds::{CommandFdExt, FdMapping};
use dgx_gateway_testkit::client::RawClient;
use http::Method;

use crate::harness::{SOON, Setup, soon, until};

/// The words of the next message; without a time for a message that has one.
fn heard(socket: &UnixDatagram) -> String {
    let mut words = [0; 256];
    let length = socket.recv(&mut words).unwrap();
    let words = String::from_utf8(words[..length].to_vec()).unwrap();
    words.split_once("MONOTONIC_USEC=").map_or(words.clone(), |(before, time)| {
        assert!(time.parse::<u64>().unwrap() > 0, "{words}");
        before.trim_end().to_owned()
    })
}

/// The next message that is no sign of life.
async fn next(socket: &UnixDatagram) -> String {
    let socket = socket.try_clone().unwrap();
    let words = tokio::task::spawn_blocking(move || {
        std::iter::repeat_with(|| heard(&socket)).find(|words| words != "WATCHDOG=1").unwrap()
    });
    soon("a message to the service manager", words).await.unwrap()
}

#[tokio::test]
async fn the_service_manager_hears_of_start_reload_life_and_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let setup = Setup::new().variable("NOTIFY_SOCKET", path.to_str().unwrap()).variable("WATCHDOG_USEC", "200000");
    let mut gateway = setup.start().await;
    assert_eq!(next(&socket).await, "READY=1");
    let alive = socket.try_clone().unwrap();
    let twice = tokio::task::spawn_blocking(move || [heard(&alive), heard(&alive)]);
    assert_eq!(soon("signs of life", twice).await.unwrap(), ["WATCHDOG=1", "WATCHDOG=1"]);
    assert_eq!(gateway.reload().await.0, 200);
    assert_eq!([next(&socket).await, next(&socket).await], ["RELOADING=1", "READY=1"]);
    // one that fails is over as well
    gateway.put("auth/tokens.yaml", "version: 2");
    assert_eq!(gateway.reload().await.0, 422);
    assert_eq!([next(&socket).await, next(&socket).await], ["RELOADING=1", "READY=1"]);
    gateway.signal("TERM");
    assert_eq!(next(&socket).await, "STOPPING=1");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn sockets_that_are_handed_over_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let [public, admin] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let [public_at, admin_at] = [public.local_addr().unwrap(), admin.local_addr().unwrap()];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dgx-gateway"));
    // in the other order, so that the names count
    let sockets = [admin, public].map(OwnedFd::from);
    let mappings =
        sockets.into_iter().zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
    command
        .current_dir(dir.path())
        .env_clear()
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", "admin:public")
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
        .fd_mappings(mappings)
        .unwrap();
    let mut child = command.spawn().unwrap();
    for (address, path, status) in
        [(public_at, "/healthz", 200), (admin_at, "/metrics", 200), (public_at, "/metrics", 404)]
    {
        until("it answers", async || {
            let Ok(mut client) = RawClient::connect(address).await else { return false };
            client.request(&Method::GET, path, &[], b"").await.unwrap();
            soon("an answer", client.read_response()).await.is_ok_and(|answer| answer.status == status)
        })
        .await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
