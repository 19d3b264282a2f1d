//! What an expression of `PromQL` asks for: the series that it selects, with the labels that it compares, and the labels
//! that it groups by. Whether it is one, promtool says.

/// A series that is selected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) name: String,
    /// Labels in its braces.
    pub(super) labels: Vec<String>,
}

/// What an expression asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) selected: Vec<Selected>,
    /// Labels of `by`, `without`, `on`, `ignoring` and the like.
    pub(super) grouped: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    /// A number or a duration.
    Number,
    Text,
    Sign(char),
}

/// Words that stand between expressions.
const BETWEEN: [&str; 8] = ["and", "atan2", "bool", "offset", "or", "unless", "inf", "nan"];
/// Words that are followed by labels in parentheses.
const GROUPING: [&str; 6] = ["by", "group_left", "group_right", "ignoring", "on", "without"];

/// Reads an expression in which no variables of Grafana are left.
pub(super) fn asked(expression: &str) -> Asked {
    let tokens = tokens(expression);
    let mut asked = Asked::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Name(name) = token else { continue };
        let word = name.to_lowercase();
        let next = tokens.get(at);
        if GROUPING.contains(&&*word) && next == Some(&Token::Sign('(')) {
            let end = closing(&tokens, at, ')');
            asked.grouped.extend(names(&tokens[at..end]));
            at = end;
        } else if BETWEEN.contains(&&*word) || next == Some(&Token::Sign('(')) {
            // a function, or an aggregation, whose labels may stand before or behind what it adds up
        } else if next.is_some_and(|next| matches!(next, Token::Name(word) if GROUPING.contains(&&**word)))
            && is_aggregation(&word)
        {
        } else {
            let mut labels = Vec::new();
            if next == Some(&Token::Sign('{')) {
                let end = closing(&tokens, at, '}');
                labels = names(&tokens[at..end]);
                at = end;
            }
            asked.selected.push(Selected { name: name.clone(), labels });
        }
    }
    asked
}

fn is_aggregation(word: &str) -> bool {
    ["avg", "count", "group", "max", "min", "quantile", "stddev", "sum", "topk", "bottomk"].contains(&word)
}

fn closing(tokens: &[Token], from: usize, sign: char) -> usize {
    from + tokens[from..].iter().position(|token| *token == Token::Sign(sign)).expect("it is closed")
}

fn names(tokens: &[Token]) -> Vec<String> {
    let name = |token: &Token| if let Token::Name(name) = token { Some(name.clone()) } else { None };
    tokens.iter().filter_map(name).collect()
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |character: char| character == '_' || character == ':' || character.is_ascii_alphanumeric();
        let length = if first.is_ascii_digit() {
            tokens.push(Token::Number);
            rest.find(|character: char| !(character == '.' || character.is_ascii_alphanumeric())).unwrap_or(rest.len())
        } else if is_name(first) {
            let end = rest.find(|character| !is_name(character)).unwrap_or(rest.len());
            tokens.push(Token::Name(rest.split_at(end).0.to_owned()));
            end
        } else if "\"'`".contains(first) {
            tokens.push(Token::Text);
            quoted(rest, first)
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Sign(first));
            }
            first.len_utf8()
        };
        rest = rest.split_at(length).1;
    }
    tokens
}

/// Length of a text in quotes; what is escaped in it does not end it.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if !escaped && character == quote {
            return at + character.len_utf8();
        }
        escaped = !escaped && character == '\\' && quote != '`';
    }
    panic!("a text is not closed: {text}")
}

#[test]
fn an_expression_is_taken_apart() {
    let series = |name: &str, labels: &[&str]| Selected {
        name: name.to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    for (expression, selected, grouped) in [
        ("up", vec![series("up", &[])], vec![]),
        ("sum by (a, b) (rate(x{c=\"d{e}\", f!~'g\\'h'}[5m])) > 0.5", vec![series("x", &["c", "f"])], vec!["a", "b"]),
        ("sum(rate(x[5m] offset 1h)) without (a)", vec![series("x", &[])], vec!["a"]),
        (
            "topk(3, x) / on (a) group_left (b) y{} or 1 + z",
            vec![series("x", &[]), series("y", &[]), series("z", &[])],
            vec!["a", "b"],
        ),
        ("histogram_quantile(0.95, sum by (le) (rate(x_bucket[1h30m])))", vec![series("x_bucket", &[])], vec!["le"]),
        ("max by (a) (x) == bool 1 and up{job=\"by\"}", vec![series("x", &[]), series("up", &["job"])], vec!["a"]),
    ] {
        let grouped = grouped.into_iter().map(str::to_owned).collect();
        assert_eq!(asked(expression), Asked { selected, grouped }, "{expression}");
    }
}
