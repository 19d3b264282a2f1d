//! The settings of a file: fallbacks and further names of models, and what is left over.

use serde_yaml::{Mapping, Value};

use super::{Importer, Step};
use crate::import::deployment::{is_slug, shown};

impl Importer {
    /// The rest of the file.
    pub(super) fn settings(&mut self, file: &Mapping) {
        for (section, value) in file {
            let section = section.as_str().unwrap_or_default();
            match (section, value.as_mapping()) {
                ("model_list", _) => {}
                ("router_settings" | "litellm_settings", Some(settings)) => self.section(section, settings),
                (_, Some(settings)) => {
                    for key in settings.keys().filter_map(Value::as_str) {
                        self.note(format!("{}.{}: not carried over{}", shown(section), shown(key), hint(key)));
                    }
                }
                _ => self.note(format!("{}: not carried over", shown(section))),
            }
        }
    }

    fn section(&mut self, section: &str, settings: &Mapping) {
        for (key, value) in settings {
            let key = key.as_str().unwrap_or_default();
            let place = format!("{section}.{}", shown(key));
            match key {
                "fallbacks" => self.fallbacks(&place, value),
                "default_fallbacks" => self.default_fallbacks(&place, value),
                "model_group_alias" => self.aliases(&place, value),
                _ => self.note(format!("{place}: not carried over{}", hint(key))),
            }
        }
    }

    fn fallbacks(&mut self, place: &str, value: &Value) {
        for entry in value.as_sequence().into_iter().flatten() {
            for (model, others) in entry.as_mapping().into_iter().flatten() {
                match model.as_str() {
                    Some("*") => self.default_fallbacks(place, others),
                    Some(model) => self.fall_back(place, model, &names(others)),
                    None => self.note(format!("{place}: an entry names no model")),
                }
            }
        }
    }

    fn default_fallbacks(&mut self, place: &str, value: &Value) {
        let aliases: Vec<String> = self.out.models.iter().map(|model| model.alias.clone()).collect();
        let others = names(value);
        for alias in aliases.iter().filter(|alias| !others.contains(alias)) {
            self.fall_back(place, alias, &others);
        }
    }

    /// Puts other models behind the route of one.
    fn fall_back(&mut self, place: &str, model: &str, others: &[String]) {
        for other in others {
            let known = |alias: &str| self.out.models.iter().position(|known| known.alias == alias);
            let (Some(from), Some(_)) = (known(model), known(other)) else {
                self.note(format!(
                    "{place}: {} to {} is left out: one of them is not imported",
                    shown(model),
                    shown(other)
                ));
                continue;
            };
            // a route that leads back to itself is none; then the other's own deployments stand in its place
            let steps = if self.leads(other, model) { self.own_steps(other) } else { vec![Step::Alias(other.clone())] };
            if let Some(model) = self.out.models.get_mut(from) {
                let fresh: Vec<Step> = steps.into_iter().filter(|step| !model.route.contains(step)).collect();
                model.route.extend(fresh);
            }
        }
    }

    /// Whether the route of a model comes to another one.
    fn leads(&self, from: &str, to: &str) -> bool {
        from == to
            || self
                .out
                .models
                .iter()
                .filter(|model| model.alias == from)
                .flat_map(|model| &model.route)
                .any(|step| matches!(step, Step::Alias(next) if self.leads(next, to)))
    }

    /// The deployments of a model, each a step of its own.
    fn own_steps(&self, alias: &str) -> Vec<Step> {
        let own = self.out.models.iter().filter(|model| model.alias == alias).flat_map(|model| &model.route);
        own.filter_map(|step| match step {
            Step::Backend { backend, model, .. } => {
                Some(Step::Backend { backend: backend.clone(), model: model.clone(), group: None })
            }
            Step::Alias(_) => None,
        })
        .collect()
    }

    /// Further names of models.
    fn aliases(&mut self, place: &str, value: &Value) {
        for (name, target) in value.as_mapping().into_iter().flatten() {
            let target = target.as_str().or_else(|| target.get("model")?.as_str());
            let (Some(name), Some(target)) = (name.as_str(), target) else {
                self.note(format!("{place}: an entry names no model"));
                continue;
            };
            let known = |alias: &str| self.out.models.iter().any(|model| model.alias == alias);
            if !is_slug(name) || known(name) || !known(target) {
                let (name, target) = (shown(name), shown(target));
                self.note(format!(
                    "{place}: {name} for {target} is left out: no slug, taken, or its model is not imported"
                ));
            } else {
                self.out.pins.push((name.to_owned(), target.to_owned()));
            }
        }
    }
}

fn names(value: &Value) -> Vec<String> {
    value.as_sequence().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What takes the place of a setting, where something does.
fn hint(key: &str) -> &'static str {
    match key {
        "master_key" => "; tokens are made with `dgx-gateway token new`",
        "database_url" => "; state is kept in data_dir",
        "request_timeout" | "timeout" => "; see server.total_timeout_seconds",
        "redis_host" | "redis_port" | "redis_password" | "redis_url" => "; see limits.store",
        "cache" | "cache_params" => "; there is no cache yet",
        "context_window_fallbacks" | "content_policy_fallbacks" => "; a refusal of the content is the answer",
        "num_retries" | "allowed_fails" | "cooldown_time" | "retry_policy" | "routing_strategy" => {
            "; the next step of the route is tried, and the one with the least to do comes first"
        }
        _ => "",
    }
}
