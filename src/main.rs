//! The command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dgx_gateway::config::Overrides;
use dgx_gateway::registry::{registry, version};
use dgx_gateway::server::{self, StartError};
use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;

/// An LLM gateway in front of vLLM, LiteLLM, Ollama and cloud providers.
#[derive(Parser)]
#[command(name = "dgx-gateway", version, about)]
struct Cli {
    /// Configuration file. Default: conf/gateway.yaml, if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Checks all configuration files and prints every problem.
    Check,
    /// Runs the gateway (the default).
    Serve,
    /// Prints the version.
    Version {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let overrides = Overrides { config: cli.config };
    let ambient = Ambient::new(std::env::vars());
    match cli.command.unwrap_or(Command::Serve) {
        Command::Check => check(&overrides, &ambient),
        Command::Serve => serve(&overrides, &ambient),
        Command::Version { json } => print_version(json),
    }
}

fn serve(overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    match server::serve(overrides, ambient, &registry()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Config(problems)) => {
            report(&problems);
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&mut std::io::stderr(), &format!("dgx-gateway: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn check(overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    match server::check(overrides, ambient, &registry()) {
        Ok(()) => {
            say(&mut std::io::stdout(), "The configuration is valid.\n");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            report(&problems);
            ExitCode::from(2)
        }
    }
}

fn print_version(json: bool) -> ExitCode {
    let version = version();
    let text = match serde_json::to_string(&version) {
        Ok(text) if json => format!("{text}\n"),
        _ => format!("{} {} ({}, {})\n", version.name, version.version, version.git_sha, version.build_date),
    };
    say(&mut std::io::stdout(), &text);
    ExitCode::SUCCESS
}

fn report(problems: &[Problem]) {
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    say(&mut std::io::stderr(), &lines);
}

/// Writes for the operator; a closed pipe is no reason to fail.
fn say(to: &mut impl Write, text: &str) {
    drop(to.write_all(text.as_bytes()));
}
