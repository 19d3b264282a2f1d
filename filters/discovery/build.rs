//! Hands the commit and the day of the build to the version endpoint.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // the log of HEAD grows with every commit and checkout; HEAD itself mostly names a branch
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    } else {
        println!("cargo::rerun-if-changed=build.rs");
    }
    let sha = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "0".repeat(40));
    println!("cargo::rustc-env=GATEWAY_GIT_SHA={sha}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let epoch = std::env::var_os("SOURCE_DATE_EPOCH").and_then(|value| value.to_str()?.parse().ok()).unwrap_or(now);
    println!("cargo::rustc-env=GATEWAY_BUILD_EPOCH={}", epoch - epoch % 86_400);
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
