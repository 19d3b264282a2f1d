//! Hands the commit and the day of the build to the version endpoint.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-env-changed=GIT_SHA");
    // the log of HEAD grows with every commit and checkout; HEAD itself mostly names a branch
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    } else {
        println!("cargo::rerun-if-changed=build.rs");
    }
    // a build without the history, in a container, is told which commit it is
    let told = std::env::var_os("GIT_SHA").and_then(|sha| sha.into_string().ok()).filter(|sha| is_commit(sha));
    let sha = told.or_else(|| git(&["rev-parse", "HEAD"])).unwrap_or_else(|| "0".repeat(40));
    println!("cargo::rustc-env=GATEWAY_GIT_SHA={sha}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let epoch = std::env::var_os("SOURCE_DATE_EPOCH").and_then(|value| value.to_str()?.parse().ok()).unwrap_or(now);
    println!("cargo::rustc-env=GATEWAY_BUILD_EPOCH={}", epoch - epoch % 86_400);
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
