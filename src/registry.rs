//! The only file that names plug-ins: which kinds this binary has, the shape of the file that one of
//! them reads, and what it tells an operator at the start.

use std::net::SocketAddr;
use std::sync::Arc;

use dgx_gateway_filter::BuildEnv;
use dgx_gateway_identity::Tokens;
use dgx_gateway_wire::errors::envelope::{Anthropic, OpenAi};

use crate::admin::MetricsPage;
use crate::plugins::Registry;

/// Endpoint kind that the admin listener serves as well.
pub const ADMIN_PAGES: &str = "health";

/// Everything this binary was built with. Services are built in this order.
#[must_use]
pub fn registry() -> Registry {
    Registry::new(Arc::new(OpenAi), include_str!("../conf/routes.yaml"))
        .dialect("messages", Arc::new(Anthropic))
        .metrics_route("[{path: /metrics, methods: [GET], filters: [limits-public], endpoint: metrics}]")
        .endpoint::<MetricsPage>()
        .service::<dgx_gateway_traces::Service>() // follows requests; needs nobody
        .service::<dgx_gateway_audit::Service>() // whom others tell what happened, so before all
        .service::<dgx_gateway_limits::Service>() // slows down who guesses secrets, so before identity
        .service::<dgx_gateway_identity::Service>()
        .service::<dgx_gateway_store::Service>() // state: before all that keep some
        .service::<dgx_gateway_tenant_config::Service>() // needs the tenants; whoever serves them asks it
        .service::<dgx_gateway_ledger::Service>() // knows what calls cost: before models
        .service::<dgx_gateway_limits::BudgetService>() // begins with what the ledger knows
        .service::<dgx_gateway_demo::Service>() // offers itself to models
        .service::<dgx_gateway_models::Service>()
        .cross_check(dgx_gateway_limits::unpriced_budgets)
        .filter::<dgx_gateway_identity::Authenticate>()
        .filter::<dgx_gateway_identity::Access>()
        .filter::<dgx_gateway_limits::Requests>()
        .filter::<dgx_gateway_limits::PublicPages>()
        .filter::<dgx_gateway_guard::Headers>()
        .filter::<dgx_gateway_guard::Body>()
        .filter::<dgx_gateway_guard::AudioForm>()
        .filter::<dgx_gateway_models::Route>()
        .filter::<dgx_gateway_guard::Content>()
        .filter::<dgx_gateway_limits::Tokens>()
        .filter::<dgx_gateway_limits::Budgets>()
        .filter::<dgx_gateway_limits::Turn>()
        .filter::<dgx_gateway_ledger::Book>()
        .endpoint::<dgx_gateway_discovery::Health>()
        .endpoint::<dgx_gateway_discovery::Pages>()
        .endpoint::<dgx_gateway_ledger::Usage>()
        .endpoint::<dgx_gateway_models::ListEndpoint>()
        .endpoint::<dgx_gateway_tenant_config::ConfigEndpoint>()
}

/// JSON Schema of the models file.
#[must_use]
pub fn models_file() -> schemars::Schema {
    schemars::schema_for!(dgx_gateway_models::CatalogFile)
}

/// JSON Schema of the price file.
#[must_use]
pub fn pricing_file() -> schemars::Schema {
    schemars::schema_for!(dgx_gateway_ledger::PricingFile)
}

/// JSON Schema of the file with tenants and tokens.
#[must_use]
pub fn tokens_file() -> schemars::Schema {
    dgx_gateway_identity::tokens_file_schema()
}

/// What a gateway without tokens tells the operator: its bearer once, and how to use it. `None` when tokens are
/// configured.
#[must_use]
pub fn greeting(env: &BuildEnv, scheme: &str, listen: SocketAddr) -> Option<String> {
    let tokens = env.service::<Tokens>().ok()?;
    let (secret, newly_made) = tokens.bootstrap_secret()?;
    let file = env.data_dir.join("keys/bootstrap-token");
    let file = file.display();
    let (said, bearer) = if newly_made {
        (
            format!("No token is configured, so a bearer was made. It is kept in {file} and shown here once."),
            secret.to_owned(),
        )
    } else {
        (format!("No token is configured. The bearer in {file} is valid."), format!("$(cat {file})"))
    };
    let body = r#"{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hello, who are you?"}]}"#;
    // one line, so that it can be copied as a whole
    Some(format!(
        "{said} Try it:\n\n  curl -N {scheme}://{listen}/v1/chat/completions -H \"Authorization: Bearer {bearer}\" -H 'Content-Type: application/json' -d '{body}'\n\n"
    ))
}

/// The version of the product, as the version endpoint gives it.
#[must_use]
pub fn version() -> dgx_gateway_discovery::Version {
    dgx_gateway_discovery::version()
}

/// Editing of the tokens file, for the command line.
pub mod tokens {
    pub use dgx_gateway_identity::config::AuthSettings;
    pub use dgx_gateway_identity::edit::{expiry, expiry_text, grace};
    pub use dgx_gateway_identity::{EditError, Listed, NewToken, TokensFile};
}
