//! What is printed: YAML that the gateway reads, with what could not be carried over as comments.

use rust_decimal::Decimal;

use super::Part;
use super::deployment::COSTS;
use super::litellm::{Backend, Imported, Model, Price, Step};

const BACKENDS: &str = "# The key `backends` of conf/gateway.yaml.";
const MODELS: &str = "# conf/models.yaml";
const PRICES: &str = "# conf/pricing.yaml: costs that the file states, in US dollars; tokens per 1000000.";

/// All of it, or a part.
pub(crate) fn text(imported: &Imported, part: Option<Part>) -> String {
    match part {
        Some(Part::Backends) => notes(imported) + &backends(imported),
        Some(Part::Models) => models(imported),
        Some(Part::Pricing) => prices(imported),
        None => {
            let mut out = notes(imported) + BACKENDS + "\n" + &backends(imported) + "---\n" + MODELS + "\n";
            out.push_str(&models(imported));
            if !imported.prices.is_empty() {
                let lines = prices(imported);
                let commented: String = lines.lines().map(|line| format!("# {line}\n")).collect();
                out.push_str(&format!("\n{PRICES}\n#\n{commented}"));
            }
            out
        }
    }
}

fn notes(imported: &Imported) -> String {
    if imported.notes.is_empty() {
        return String::new();
    }
    let lines: String = imported.notes.iter().map(|note| format!("#   {note}\n")).collect();
    format!("# Made from a configuration of LiteLLM. Decided, or not carried over:\n{lines}\n")
}

/// A text as a scalar: bare where that is safe, else as JSON writes it, which YAML reads.
fn scalar(text: &str) -> String {
    let safe = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&&*text.to_ascii_lowercase());
    if safe { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// Adds a line.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{
        $out.push_str(&format!($($text)*));
        $out.push('\n');
    }};
}

fn backends(imported: &Imported) -> String {
    let mut out = String::from("backends:\n");
    for backend in &imported.backends {
        let Backend { id, kind, local, base_url, api_key, max_in_flight, first_byte_timeout, protocols } = backend;
        line!(out, "  - id: {}", scalar(id));
        line!(out, "    kind: {kind}");
        line!(out, "    domain: {}", if *local { "local" } else { "cloud" });
        line!(out, "    base_url: {}", scalar(base_url));
        if let Some(key) = api_key {
            line!(out, "    api_key: {}", scalar(key));
        }
        line!(out, "    protocols: [{}]", protocols.iter().copied().collect::<Vec<_>>().join(", "));
        if let Some(most) = max_in_flight {
            line!(out, "    max_in_flight: {}", (*most).min(100_000));
        }
        if let Some(seconds) = first_byte_timeout {
            line!(out, "    first_byte_timeout_seconds: {seconds}");
        }
    }
    out
}

fn models(imported: &Imported) -> String {
    let mut out = String::from("version: 1\nmodels:\n");
    for model in &imported.models {
        let Model { alias, kind, window, most_output, vision, tools, route } = model;
        line!(out, "  - alias: {}", scalar(alias));
        line!(out, "    type: {kind}");
        if let Some(window) = window {
            line!(out, "    context_window: {window}");
        }
        if let Some(most) = most_output {
            line!(out, "    max_output_tokens: {most}");
        }
        if *vision {
            line!(out, "    modalities: {{input: [text, image], output: [text]}}");
        }
        if let Some(tools) = tools {
            line!(out, "    tools: {tools}");
        }
        line!(out, "    route:");
        for step in route {
            match step {
                Step::Alias(alias) => line!(out, "      - {{alias: {}}}", scalar(alias)),
                Step::Backend { backend, model, group } => {
                    let group = group.map(|group| format!(", group: {group}")).unwrap_or_default();
                    line!(out, "      - {{backend: {}, model: {}{group}}}", scalar(backend), scalar(model));
                }
            }
        }
    }
    if !imported.pins.is_empty() {
        out.push_str("pins:\n");
        for (name, target) in &imported.pins {
            line!(out, "  {}: {{target: {}}}", scalar(name), scalar(target));
        }
    }
    out
}

fn prices(imported: &Imported) -> String {
    let mut out = String::from("version: 1\nentries:\n");
    if imported.prices.is_empty() {
        return "version: 1\nentries: []\n".to_owned();
    }
    for Price { backend, model, costs } in &imported.prices {
        let told = costs.iter().filter_map(|(name, cost)| {
            let (_, key, of_tokens) = COSTS.iter().find(|(known, ..)| known == name)?;
            Some(format!("{key}: \"{}\"", price(*cost, *of_tokens)?))
        });
        let told: Vec<String> = told.collect();
        line!(out, "  - {{backend: {}, model: {}, {}}}", scalar(backend), scalar(model), told.join(", "));
    }
    out
}

/// A cost as decimal text: what is stated for one token is given for a million.
fn price(cost: f64, of_tokens: bool) -> Option<String> {
    // the shortest text that means the number is the one that stands in the file
    let cost = Decimal::from_scientific(&format!("{cost:e}")).ok()?;
    let price = if of_tokens { cost.checked_mul(Decimal::from(1_000_000))? } else { cost };
    Some(price.normalize().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_keep_every_digit() {
        for (cost, of_tokens, text) in [
            (0.000_03, true, "30"),
            (3e-6, true, "3"),
            (2.5e-7, true, "0.25"),
            (1.1e-8, true, "0.011"),
            (0.04, false, "0.04"),
            (0.0, true, "0"),
        ] {
            assert_eq!(price(cost, of_tokens).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_scalar_is_read_back_as_the_text_that_it_was() {
        for text in ["gpt-4o", "yes", "1.5", "a: b", "# x", "${KEY}", "\u{e9}\"'\\", "", "null", "o1", "a/b:c", "- x"] {
            let value: serde_yaml::Value = serde_yaml::from_str(&format!("key: {}", scalar(text))).unwrap();
            assert_eq!(value["key"], serde_yaml::Value::from(text), "{text}");
        }
    }
}
