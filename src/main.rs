//! The command line.

mod backup;
mod health;
mod import;
mod schema;
mod show;
mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use dgx_gateway::config::Overrides;
use dgx_gateway::registry::{registry, version};
use dgx_gateway::server::{self, Ended, StartError};
use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use mimalloc::MiMalloc;

/// In place of the C library's, which takes a sixth more of a request's time, and maps and unmaps each large body anew.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What was asked for.
#[derive(Parser)]
#[command(name = "dgx-gateway", version, about = env!("CARGO_PKG_DESCRIPTION"), long_about = None)]
struct Cli {
    /// Configuration file. Default: conf/gateway.yaml, if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Copies everything that the gateway keeps, while it runs, to a new directory.
    Backup {
        /// The directory: new, or empty.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Checks all configuration files and prints every problem.
    Check,
    /// Describes the configuration files.
    Config {
        #[command(subcommand)]
        what: Describe,
    },
    /// Asks the gateway of this machine how it is; for checks of containers.
    Health {
        /// Whether it can serve, and not only whether it runs.
        #[arg(long)]
        ready: bool,
    },
    /// Prints backends and models made from the configuration of another gateway.
    Import {
        #[command(subcommand)]
        what: import::Import,
    },
    /// Puts a backup in place of an empty data directory. The gateway must not run.
    Restore {
        /// The directory that `backup` made.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Runs the gateway (the default).
    Serve,
    /// Lists and changes the tokens of the tokens file.
    Token {
        #[command(subcommand)]
        what: token::Token,
    },
    /// Prints the version.
    Version {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum Describe {
    /// Prints the reference of all keys as Markdown.
    Reference,
    /// Prints the JSON Schema of a file.
    Schema {
        /// Which file.
        #[arg(long, value_enum, default_value = "gateway")]
        file: FileKind,
    },
    /// Prints the configuration that is in effect, without its secrets.
    Show,
}

#[derive(Clone, Copy, ValueEnum)]
enum FileKind {
    Agent,
    Gateway,
    Models,
    Pricing,
    Tokens,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let overrides = Overrides { config: cli.config };
    let ambient = Ambient::new(std::env::vars());
    match cli.command.unwrap_or(Command::Serve) {
        Command::Backup { directory } => backup::backup(&directory, &overrides, &ambient),
        Command::Check => check(&overrides, &ambient),
        Command::Config { what } => describe(&what, &overrides, &ambient),
        Command::Health { ready } => health(ready, &overrides, &ambient),
        Command::Import { what } => import::run(&what),
        Command::Restore { directory } => backup::restore(&directory, &overrides, &ambient),
        Command::Serve => serve(&overrides, &ambient),
        Command::Token { what } => token::run(&what, &overrides, &ambient),
        Command::Version { json } => print_version(json),
    }
}

fn serve(overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    match server::serve(overrides, ambient, registry()) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut) => ExitCode::FAILURE,
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

fn health(ready: bool, overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    match health::ask(ready, overrides, ambient) {
        Ok(said) => {
            say(&mut std::io::stdout(), &said);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&mut std::io::stderr(), &format!("dgx-gateway: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn check(overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    match with_warnings(|| server::check(overrides, ambient, registry())) {
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

/// What a check warns of is for whoever runs it: standard error, one line each.
fn with_warnings<T>(check: impl FnOnce() -> T) -> T {
    let warnings = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(warnings, check)
}

fn describe(what: &Describe, overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    let text = match what {
        Describe::Reference => schema::reference(&registry()),
        Describe::Schema { file: FileKind::Gateway } => schema::text(&schema::gateway(&registry())),
        Describe::Schema { file: FileKind::Models } => schema::text(&schema::models()),
        Describe::Schema { file: FileKind::Tokens } => schema::text(&schema::tokens()),
        Describe::Schema { file: FileKind::Agent } => return not_yet("agent"),
        Describe::Schema { file: FileKind::Pricing } => schema::text(&schema::pricing()),
        Describe::Show => return show(overrides, ambient),
    };
    say(&mut std::io::stdout(), &text);
    ExitCode::SUCCESS
}

/// A file that this version does not read has no shape.
fn not_yet(file: &str) -> ExitCode {
    say(
        &mut std::io::stderr(),
        &format!("dgx-gateway: this version reads no {file} file, so it has no schema for it\n"),
    );
    ExitCode::from(2)
}

fn show(overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    let shown =
        server::check(overrides, ambient, registry()).and_then(|()| show::effective(overrides, ambient, &registry()));
    match shown {
        Ok(text) => {
            say(&mut std::io::stdout(), &text);
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
