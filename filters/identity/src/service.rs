//! The service behind the key `auth`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::budget::BudgetsRead;
use dgx_gateway_filter::services::FairShare;
use dgx_gateway_filter::tenant_config::Tenants;
use dgx_gateway_filter::views::Views;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};

use crate::catalog::{CheckedTokens, Tokens};
use crate::config::Settings;
use crate::file;

/// Reads tokens and tenants and offers them as [`Tokens`].
#[derive(Debug)]
pub struct Service;

impl ServiceKind for Service {
    const NAME: &'static str = "identity";
    const KEYS: &'static [&'static str] = &["auth"];
    type Settings = Settings;
    type Checked = CheckedTokens;

    fn check(settings: Settings, ambient: &Ambient) -> Result<CheckedTokens, Vec<Problem>> {
        let path = settings.auth.tokens_file;
        let text = match ambient.config_file(&path) {
            Ok(text) => text,
            Err(error) => {
                return Err(vec![Problem::at("", format!("cannot be read: {}", error.kind())).in_file(path)]);
            }
        };
        warn_if_world_readable(&path);
        file::read(&path, text.as_deref(), ambient).map(|checked| CheckedTokens { file: path, ..checked })
    }

    fn view(checked: &CheckedTokens, views: &mut Views) {
        views.offer(BudgetsRead(checked.budgets.clone()));
    }

    fn build(checked: CheckedTokens, env: &mut BuildEnv) -> Result<(), BuildError> {
        env.provide(Arc::new(checked.budgets_of_tenants()));
        let limits = checked.tenants.iter().map(|tenant| (Arc::clone(&tenant.id), *tenant.limits)).collect();
        if let Ok(share) = env.service::<Arc<dyn FairShare>>() {
            env.when_in_use(move || share.tenants(limits));
        }
        let previous = env.previous::<Tokens>();
        if previous.is_none() {
            warn_if_world_readable(&checked.file); // at a start there is no log yet when it is checked
        }
        let tokens = Tokens::new(checked, &env.data_dir, previous.as_deref())?;
        if previous.is_some_and(|previous| !previous.uses_bootstrap()) && tokens.uses_bootstrap() {
            tracing::warn!("no token is configured any more: the bearer in keys/bootstrap-token is valid");
        }
        let tokens = Arc::new(tokens);
        env.provide::<Arc<dyn Tenants>>(Arc::new(Arc::clone(&tokens) as Arc<dyn Tenants>));
        env.provide(tokens);
        Ok(())
    }
}

fn warn_if_world_readable(path: &Path) {
    if fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
        tracing::warn!(file.path = %path.display(), "everyone on this machine can read the tokens file; use mode 0600");
    }
}
