//! `tokens.yaml`, read as a whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::budget::BudgetRead;
use dgx_gateway_filter::tenant_config::{Environment, Process};
use dgx_gateway_filter::yaml;
use serde_yaml::Value;

use crate::catalog::CheckedTokens;
use crate::digest::Digest;
use crate::scopes::Role;
use crate::tenant::{DEFAULT_TENANT, Tenant};
use crate::token::{Secret, Token, VISIBLE, is_sendable};
use crate::tokens_file::Listed;
use crate::user;
use crate::yaml::{Node, Reader};

const BEARER: &str = "RUST_API_BEARER";
const DEFAULT_USER: &str = "DGX_GATEWAY_DEFAULT_USER_ID";

/// Reads the file and the implicit token of the environment. `text` is `None` when there is no file.
pub(crate) fn read(path: &Path, text: Option<&str>, ambient: &Ambient) -> Result<CheckedTokens, Vec<Problem>> {
    let mut problems = Vec::new();
    let environment = environment_token(ambient, &mut problems);
    let mut checked = match text {
        None => CheckedTokens::default(),
        Some(text) => match parse(text, ambient, environment.is_some()) {
            Ok(mut checked) => {
                checked.budgets = placed_budgets(&checked.tenants, path, text);
                checked
            }
            Err(found) => {
                problems.extend(found.into_iter().map(|problem| problem.in_file(path)));
                CheckedTokens::default()
            }
        },
    };
    if let Some((token, secret)) = environment {
        add_environment_token(&mut checked, token, secret, &mut problems);
    }
    if problems.is_empty() { Ok(checked) } else { Err(problems) }
}

/// The tokens of the file alone, as they may be shown.
pub(crate) fn listed(path: &Path, text: Option<&str>, ambient: &Ambient) -> Result<Vec<Listed>, Vec<Problem>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let default_exists = environment_token(ambient, &mut Vec::new()).is_some();
    let checked = parse(text, ambient, default_exists)
        .map_err(|found| found.into_iter().map(|problem| problem.in_file(path)).collect::<Vec<_>>())?;
    let listed = |(token, secrets): &(Token, Vec<Secret>)| Listed {
        id: token.id.to_string(),
        role: token.role.map(Role::as_str),
        tenant: token.bound_tenant.as_deref().map(str::to_owned),
        user: token.default_user_id.as_deref().map(str::to_owned),
        secrets: secrets.len(),
        // one that lasts makes the token last
        expires: secrets
            .iter()
            .map(Secret::expires_at)
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max()),
        label: token.label.clone(),
    };
    Ok(checked.tokens.iter().map(listed).collect())
}

fn parse(text: &str, ambient: &Ambient, default_exists: bool) -> Result<CheckedTokens, Vec<Problem>> {
    let value: Value = serde_yaml::from_str(text).map_err(|error| vec![yaml::syntax_problem(&error)])?;
    let mut reader = Reader::new(ambient);
    // what is wrong in the environment is told by the part that owns it
    let process = Process::of(&Environment::read(ambient).0);
    let checked = read_root(Node::root(value), &process, default_exists, &mut reader);
    let problems: Vec<_> = reader.into_problems().into_iter().map(|problem| located(problem, text)).collect();
    if problems.is_empty() { Ok(checked.unwrap_or_default()) } else { Err(problems) }
}

fn located(mut problem: Problem, text: &str) -> Problem {
    problem.line = yaml::locate::line(text, &problem.key);
    problem
}

fn read_root(root: Node, process: &Process, default_exists: bool, reader: &mut Reader<'_>) -> Option<CheckedTokens> {
    let mut section = root.section(reader)?;
    if let Some(version) = section.required("version", reader) {
        version.number(reader, 1, 1);
    }
    let tenants = section.optional("tenants").and_then(|node| node.list(reader)).unwrap_or_default();
    let tenants: Vec<_> =
        tenants.into_iter().map(|node| (node.path.clone(), Tenant::read(node, process, reader))).collect();
    let tokens = section.optional("tokens").and_then(|node| node.list(reader)).unwrap_or_default();
    let tokens: Vec<_> = tokens.into_iter().map(|node| (node.path.clone(), Token::read(node, reader))).collect();
    section.finish(reader);
    check_ids(&tenants, |tenant| &tenant.id, reader);
    check_ids(&tokens, |(token, _)| &token.id, reader);
    check_tenants(&tenants, &tokens, default_exists, reader);
    check_secrets(&tokens, reader);
    Some(CheckedTokens {
        file: PathBuf::new(),
        tenants: tenants.into_iter().filter_map(|(_, tenant)| tenant).collect(),
        tokens: tokens.into_iter().filter_map(|(_, token)| token).collect(),
        budgets: Vec::new(),
    })
}

/// The budgets with their places; all tenants of the file are there, in its order.
fn placed_budgets(tenants: &[Tenant], file: &Path, text: &str) -> Vec<BudgetRead> {
    let of_tenant = |(at, tenant): (usize, &Tenant)| {
        let placed = tenant.budgets.0.iter().enumerate().map(|(index, budget)| {
            let key = format!("tenants[{at}].budgets[{index}]");
            let line = yaml::locate::line(text, &key);
            let (tenant_id, budget) = (Arc::clone(&tenant.id), budget.clone());
            BudgetRead { tenant_id, budget, file: file.to_owned(), line, key }
        });
        placed.collect::<Vec<_>>()
    };
    tenants.iter().enumerate().flat_map(of_tenant).collect()
}

/// A record and where it stands; `None` when it could not be read.
type Placed<T> = (String, Option<T>);

fn check_ids<T>(records: &[Placed<T>], id: impl Fn(&T) -> &Arc<str>, reader: &mut Reader<'_>) {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for (path, record) in records {
        let Some(id) = record.as_ref().map(&id) else { continue };
        match seen.get(&**id) {
            Some(first) => reader.problem(format!("{path}.id"), format_args!("{id} is the id of {first} already")),
            None => drop(seen.insert(id, path)),
        }
    }
}

fn check_tenants(
    tenants: &[Placed<Tenant>],
    tokens: &[Placed<(Token, Vec<Secret>)>],
    default_exists: bool,
    reader: &mut Reader<'_>,
) {
    if tenants.iter().any(|(_, tenant)| tenant.is_none()) {
        return; // A tenant that could not be read may well be the one that is meant.
    }
    let is_known = |id: &str| {
        default_exists && id == DEFAULT_TENANT
            || tenants.iter().flat_map(|(_, known)| known).any(|known| *known.id == *id)
    };
    for (path, token) in tokens {
        let bound = token.as_ref().and_then(|(token, _)| token.bound_tenant.as_ref());
        if let Some(unknown) = bound.filter(|id| !is_known(id)) {
            reader.problem(format!("{path}.bound_tenant"), format_args!("there is no tenant {unknown}"));
        }
    }
}

/// One secret proves one token: otherwise it would be open whose rules hold.
fn check_secrets(tokens: &[Placed<(Token, Vec<Secret>)>], reader: &mut Reader<'_>) {
    let mut seen: HashMap<Digest, &str> = HashMap::new();
    for (path, token) in tokens {
        for secret in token.iter().flat_map(|(_, secrets)| secrets) {
            match seen.get(&secret.digest) {
                Some(first) => reader.problem(format!("{path}.secrets"), format_args!("has a secret of {first} again")),
                None => drop(seen.insert(secret.digest, path)),
            }
        }
    }
}

fn environment_token(ambient: &Ambient, problems: &mut Vec<Problem>) -> Option<(Token, Secret)> {
    let secret = match ambient.secret(BEARER) {
        Ok(secret) => secret?,
        Err(error) => {
            problems.push(Problem::at(format!("{BEARER}_FILE"), format!("the file cannot be read: {}", error.kind())));
            return None;
        }
    };
    if !is_sendable(&secret) {
        problems.push(Problem::at(BEARER, format!("must be {VISIBLE}")));
    }
    let user_id = ambient.var(DEFAULT_USER);
    if user_id.is_some_and(|user_id| !user::is_id(user_id.as_bytes())) {
        problems.push(Problem::at(DEFAULT_USER, "must be 1 to 128 letters, digits and . _ : @ + ~ -"));
    }
    Some((Token::implicit("env", DEFAULT_TENANT, Role::TenantAdmin, user_id), Secret::lasting(&secret)))
}

fn add_environment_token(checked: &mut CheckedTokens, token: Token, secret: Secret, problems: &mut Vec<Problem>) {
    for (listed, secrets) in &checked.tokens {
        if listed.id == token.id {
            problems.push(Problem::at(BEARER, "makes a token with the id env, which the tokens file has already"));
        }
        if secrets.iter().any(|known| known.digest.equals(&secret.digest)) {
            problems.push(Problem::at(BEARER, format!("is a secret of the token {} already", listed.id)));
        }
    }
    checked.tokens.push((token, vec![secret]));
    checked.ensure_tenant(DEFAULT_TENANT);
}

#[cfg(test)]
mod tests;
