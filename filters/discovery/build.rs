//! Hands the commit and the date of the build to the version endpoint.

use std::path::Path;
use std::process::Command;

fn main() {
    let root = Path::new("../..");
    println!("cargo::rerun-if-changed={}", root.join(".git/HEAD").display());
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let sha = Command::new("git").args(["rev-parse", "HEAD"]).output().ok().filter(|output| output.status.success());
    let sha = sha.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo::rustc-env=GATEWAY_GIT_SHA={}", sha.unwrap_or_else(|| "0".repeat(40)));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let epoch = std::env::var_os("SOURCE_DATE_EPOCH").and_then(|value| value.to_str()?.parse().ok()).unwrap_or(now);
    println!("cargo::rustc-env=GATEWAY_BUILD_EPOCH={}", epoch - epoch % 86_400);
}
