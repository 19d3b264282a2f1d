//! `dgx-gateway token …`: changes `auth/tokens.yaml` for the operator. Needs no running gateway.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use dgx_gateway::config::{Overrides, section};
use dgx_gateway::registry::tokens::{
    AuthSettings, EditError, Listed, NewToken, TokensFile, expiry, expiry_text, grace,
};
use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::{Clock, SystemClock};
use dgx_gateway_filter::yaml;

use secrecy::ExposeSecret;

use crate::{report, say};

/// What to do with tokens.
#[derive(Subcommand)]
pub(crate) enum Token {
    /// Lists the tokens; never a secret.
    List,
    /// Adds a token and prints its secret, this once.
    New(New),
    /// Removes a token.
    Revoke {
        /// Id of the token.
        id: String,
    },
    /// Adds a secret to a token and prints it, this once; the others end after the grace time.
    Rotate {
        /// Id of the token.
        id: String,
        /// How long the other secrets stay valid: a number with s, m, h or d.
        #[arg(long, default_value = "24h", value_parser = parse_grace)]
        grace: Duration,
    },
}

/// Options of a new token.
#[derive(Args)]
pub(crate) struct New {
    /// Its id.
    #[arg(long)]
    id: String,
    /// Tenant that it is bound to. Default: none, the request chooses.
    #[arg(long)]
    tenant: Option<String>,
    /// Its role.
    #[arg(long, default_value = "user", value_parser = ["user", "tenant_admin", "operator"])]
    role: String,
    /// Name for people.
    #[arg(long)]
    label: Option<String>,
    /// User whose personal token it is. Default: none, requests name their user.
    #[arg(long)]
    user: Option<String>,
    /// When its secret ends: a day (midnight UTC) or a time such as 2027-01-01T12:00:00Z. Default: never.
    #[arg(long, value_name = "DATE", value_parser = parse_expiry)]
    expires: Option<SystemTime>,
}

fn parse_grace(text: &str) -> Result<Duration, &'static str> {
    grace(text).ok_or("must be a whole number with s, m, h or d, at most 3650d")
}

fn parse_expiry(text: &str) -> Result<SystemTime, &'static str> {
    let end = expiry(text).ok_or("must be a day such as 2027-01-01 or a time such as 2027-01-01T12:00:00Z")?;
    if end > SystemClock.wall() { Ok(end) } else { Err("is over already") }
}

/// Runs a command. 0: done. 2: nothing was changed.
pub(crate) fn run(command: &Token, overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    let done = tokens_file(overrides, ambient)
        .map_err(EditError::Invalid)
        .and_then(|path| execute(command, &TokensFile::at(path, ambient)));
    match done {
        Ok(text) => {
            say(&mut std::io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&mut std::io::stderr(), &format!("dgx-gateway: {error}\n"));
            if let EditError::Invalid(problems) = &error {
                report(problems);
            }
            ExitCode::from(2)
        }
    }
}

/// Does it, and gives what standard output shows: only a secret, so that a script can take it from there.
fn execute(command: &Token, file: &TokensFile<'_>) -> Result<String, EditError> {
    match command {
        Token::List => file.list().map(|tokens| table(&tokens)),
        Token::New(new) => {
            let token = NewToken {
                id: new.id.clone(),
                tenant: new.tenant.clone(),
                role: Some(new.role.clone()),
                label: new.label.clone(),
                user: new.user.clone(),
                expires: new.expires,
            };
            file.add(&token).map(|secret| format!("{}\n", secret.expose_secret()))
        }
        Token::Revoke { id } => file.revoke(id).map(|()| String::new()),
        Token::Rotate { id, grace } => {
            let end = SystemClock.wall() + *grace;
            file.rotate(id, end).map(|secret| format!("{}\n", secret.expose_secret()))
        }
    }
}

/// Where the tokens stand. The other keys of the configuration are not looked at: their variables may be set for the
/// service alone.
fn tokens_file(overrides: &Overrides, ambient: &Ambient) -> Result<PathBuf, Vec<Problem>> {
    match section(overrides, ambient, "auth")? {
        Some(value) => yaml::read::<AuthSettings>(value).map(|auth| auth.tokens_file).map_err(|problem| vec![problem]),
        None => Ok(AuthSettings::default().tokens_file),
    }
}

fn table(tokens: &[Listed]) -> String {
    let none = || "-".to_owned();
    let head = ["ID", "ROLE", "TENANT", "USER", "SECRETS", "EXPIRES", "LABEL"].map(str::to_owned);
    let row = |token: &Listed| {
        [
            token.id.clone(),
            token.role.map_or_else(none, str::to_owned),
            token.tenant.clone().unwrap_or_else(none),
            token.user.clone().unwrap_or_else(none),
            token.secrets.to_string(),
            token.expires.and_then(expiry_text).unwrap_or_else(|| "never".to_owned()),
            // a label may hold anything, also what a terminal obeys
            token.label.as_ref().map_or_else(none, |label| label.escape_debug().to_string()),
        ]
    };
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(tokens.iter().map(row)).collect();
    let widths: Vec<usize> = (0..7)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; 7]| {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}
