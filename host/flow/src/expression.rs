//! Runtime expressions: jq by jaq, bounded.
//!
//! An expression sees its input and the variables of its place, and nothing else of the host. It is
//! compiled when a flow is checked, so that a fault is shown with its place in the source, and may take
//! [`ExpressionLimits`] when it is evaluated.
//!
//! Evaluation is a function of input, variables and the time of the step: there is no randomness, and
//! `now` is the time that the journal records for the step.

mod functions;
mod json;
pub(crate) mod meter;
mod template;
mod value;

use std::{collections::BTreeSet, fmt, ops::Range, sync::Arc, time::Duration};

use jaq_core::{
    Ctx, DataT, Lut, Vars,
    compile::Undefined,
    data::HasLut,
    load::{self, Arena, File, Lexer, Loader, Parser, parse::Term},
};
use serde_json::Value;
use time::OffsetDateTime;

use self::{
    json::{Room, TooMuch},
    meter::{Meter, Stop},
    value::Bounded,
};

pub(crate) use template::{Segment, Template, TextPart, split};

/// The longest expression, bytes. Its parser recurses; this bounds how deep.
const MAX_SOURCE_BYTES: usize = 8 << 10;
/// How deep a result may nest: the journal reads JSON of 128 levels, and some of them are its own.
const MAX_OUTPUT_LEVELS: usize = 100;

/// What the evaluation of one expression may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpressionLimits {
    /// How long it may compute. The clock on the wall may show more, by a minute at the most: a process
    /// that is stopped for a while, or gets no processor, is not the expression's fault.
    pub time: Duration,
    /// How many bytes all the values that it makes may have together.
    pub memory_bytes: u64,
    /// How many bytes its result may have as JSON; for all the expressions of one value together.
    pub output_bytes: usize,
}

impl Default for ExpressionLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(1), memory_bytes: 256 << 20, output_bytes: 8 << 20 }
    }
}

/// Why a text is not an expression, or cannot be used in its place.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The code of the diagnostic.
    pub(crate) code: &'static str,
    /// Where in the text.
    pub(crate) range: Range<usize>,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

/// Why an expression gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// It raised an error, in jq's words.
    #[error("{0}")]
    Raised(String),
    /// It passed a bound.
    #[error("{0}")]
    Stopped(String),
    /// It gave several values.
    #[error("it gives more than one value; put it in `[ ]` to make an array of them")]
    Many,
}

/// How jaq finds the terms of an expression: with a tick each time.
struct Kind;

#[derive(Clone)]
struct Terms<'a>(&'a Lut<Kind>);

impl DataT for Kind {
    type V<'a> = Bounded;
    type Data<'a> = Terms<'a>;
}

impl<'a> HasLut<'a, Kind> for Terms<'a> {
    fn lut(&self) -> &'a Lut<Kind> {
        meter::tick();
        self.0
    }
}

/// What an expression is evaluated with, besides its input.
pub(crate) struct Evaluation<'a> {
    /// The value of a variable, by its name without `$`.
    pub(crate) variable: &'a dyn Fn(&str) -> Value,
    /// What it may take.
    pub(crate) limits: ExpressionLimits,
    /// The time of the step.
    pub(crate) now: OffsetDateTime,
}

/// A compiled expression.
#[derive(Clone)]
pub(crate) struct Expression {
    source: Arc<str>,
    filter: Arc<jaq_core::Filter<Kind>>,
    /// The variables that it uses, without `$`, in the order in which they are bound.
    variables: Arc<[String]>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

impl Expression {
    /// Compiles jq text that may use the variables of `scope` (names without `$`).
    pub(crate) fn compile(source: &str, scope: &[String]) -> Result<Self, Vec<Fault>> {
        let whole = |code, message: String| Fault { code, range: 0..source.len(), message, hint: None };
        if source.len() > MAX_SOURCE_BYTES {
            let message = format!("the expression is longer than {MAX_SOURCE_BYTES} bytes");
            let hint = Some("split it over several tasks".to_owned());
            return Err(vec![Fault { hint, ..whole("bad-expression", message) }]);
        }
        let tokens = Lexer::new(source).lex().map_err(|errors| lex_faults(source, errors))?;
        let term = Parser::new(&tokens).parse(|parser| parser.term()).map_err(|errors| {
            let found = |found| load::lex::Token::opt_as_str(found, source);
            parse_faults(source, errors.into_iter().map(|(expected, token)| (expected, found(token))).collect())
        })?;
        let used = examine(source, &term)?;
        let variables: Vec<String> = scope.iter().filter(|name| used.contains(name.as_str())).cloned().collect();
        let dollar: Vec<String> = variables.iter().map(|name| format!("${name}")).collect();

        let arena = Arena::default();
        let modules = Loader::new(functions::definitions(&term))
            .load(&arena, File { code: source, path: () })
            .map_err(|errors| load_faults(source, errors))?;
        let filter = jaq_core::Compiler::default()
            .with_funs(functions::natives())
            .with_global_vars(dollar.iter().map(String::as_str))
            .compile(modules)
            .map_err(|errors| undefined_faults(source, scope, errors))?;
        Ok(Self { source: source.into(), filter: Arc::new(filter), variables: variables.into() })
    }

    /// Whether it uses a variable, named without `$`.
    pub(crate) fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|used| used == variable)
    }

    /// Its text.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The value for `input`; `null` where it gives none.
    pub(crate) fn evaluate(&self, input: &Value, evaluation: &Evaluation<'_>) -> Result<Value, Failure> {
        self.evaluate_within(input, evaluation, &mut { evaluation.limits.output_bytes })
    }

    /// The same, where the result may have `bytes_left`, from which it is taken.
    fn evaluate_within(
        &self,
        input: &Value,
        evaluation: &Evaluation<'_>,
        bytes_left: &mut usize,
    ) -> Result<Value, Failure> {
        let limits = evaluation.limits;
        let meter = Meter {
            time: limits.time,
            wall_time: meter::MAX_WALL_TIME,
            bytes: limits.memory_bytes,
            now: evaluation.now.unix_timestamp_nanos() as f64 / 1e9,
        };
        let variables: Vec<Value> = self.variables.iter().map(|name| (evaluation.variable)(name)).collect();
        let result = meter.run(|| {
            let variables = variables.iter().map(|value| Bounded::foreign(json::to_jq(value)));
            let ctx = Ctx::<Kind>::new(Terms(&self.filter.lut), Vars::new(variables));
            let mut outputs = self.filter.id.run((ctx, Bounded::foreign(json::to_jq(input))));
            let value = match outputs.next() {
                None => return Ok(Value::Null),
                Some(Ok(value)) => value,
                Some(Err(error)) => {
                    return Err(match error.get_err() {
                        Ok(error) => Failure::Raised(error.into_val().message()),
                        Err(_) => Failure::Raised("it breaks out of a label that is not there".to_owned()),
                    });
                }
            };
            if outputs.next().is_some() {
                return Err(Failure::Many);
            }
            let mut room = Room { bytes: *bytes_left, levels: MAX_OUTPUT_LEVELS };
            let result = json::from_jq(value.val(), &mut room).map_err(|too_much| {
                Failure::Stopped(match too_much {
                    TooMuch::Bytes if *bytes_left < limits.output_bytes => {
                        format!("with it the results are together larger than {} bytes", limits.output_bytes)
                    }
                    TooMuch::Bytes => format!("its result is larger than {} bytes", limits.output_bytes),
                    TooMuch::Levels => format!("its result is nested more than {MAX_OUTPUT_LEVELS} levels deep"),
                })
            })?;
            *bytes_left = room.bytes;
            Ok(result)
        });
        result.unwrap_or_else(|stop| {
            Err(Failure::Stopped(match stop {
                Some(Stop::Time) => format!("it takes longer than {} ms", limits.time.as_millis()),
                Some(Stop::Memory) => format!("it uses more than {} bytes of memory", limits.memory_bytes),
                Some(Stop::Depth) => format!("it recurses too deep, or nests more than {} values", value::MAX_DEPTH),
                None => "the jq interpreter failed on it".to_owned(),
            }))
        })
    }

    /// Whether the value for `input` is neither `false` nor `null`, as jq counts truth.
    pub(crate) fn holds(&self, input: &Value, evaluation: &Evaluation<'_>) -> Result<bool, Failure> {
        Ok(!matches!(self.evaluate(input, evaluation)?, Value::Null | Value::Bool(false)))
    }
}

/// The variables that a text uses, without `$`; refuses what the interpreter could not bound.
fn examine(source: &str, term: &Term<&str>) -> Result<BTreeSet<String>, Vec<Fault>> {
    let mut examined = Examined { source, variables: BTreeSet::new(), faults: Vec::new() };
    examined.term(term);
    if examined.faults.is_empty() { Ok(examined.variables) } else { Err(examined.faults) }
}

struct Examined<'s> {
    source: &'s str,
    variables: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl<'s> Examined<'s> {
    fn term(&mut self, term: &Term<&'s str>) {
        if let Term::Var(name) = term {
            self.variables.insert(name.trim_start_matches('$').to_owned());
        }
        if let Term::Def(definitions, _) = term {
            for definition in definitions {
                let passes_filters = definition.args.iter().any(|argument| !argument.starts_with('$'));
                if passes_filters && calls(&definition.body, definition.name, definition.args.len()) {
                    self.faults.push(Fault {
                        code: "bad-expression",
                        range: load::span(self.source, definition.name),
                        message: format!("'{}' calls itself and has a filter as parameter", definition.name),
                        hint: Some(
                            "give it `$` parameters, or put a definition without parameters inside it".to_owned(),
                        ),
                    });
                }
            }
        }
        children(term, &mut |child| self.term(child));
    }
}

/// Whether `term` calls the filter `name` with this many arguments.
///
/// A definition that calls itself with a filter makes that filter hold the one before, in a list that
/// jaq drops recursively: a loop of that kind would overflow the stack when it ends.
fn calls(term: &Term<&str>, name: &str, arity: usize) -> bool {
    if let Term::Call(called, arguments) = term
        && *called == name
        && arguments.len() == arity
    {
        return true;
    }
    let mut found = false;
    children(term, &mut |child| found |= calls(child, name, arity));
    found
}

/// Calls `visit` with each term that stands directly in `term`.
fn children<'t, 's>(term: &'t Term<&'s str>, visit: &mut dyn FnMut(&'t Term<&'s str>)) {
    use jaq_core::{
        load::{
            lex::StrPart,
            parse::{BinaryOp, Pattern},
        },
        path::Part,
    };
    fn of_pattern<'t, 's>(pattern: &'t Pattern<&'s str>, visit: &mut dyn FnMut(&'t Term<&'s str>)) {
        match pattern {
            Pattern::Var(_) => {}
            Pattern::Arr(patterns) => patterns.iter().for_each(|pattern| of_pattern(pattern, visit)),
            Pattern::Obj(entries) => entries.iter().for_each(|(key, pattern)| {
                visit(key);
                of_pattern(pattern, visit);
            }),
        }
    }
    match term {
        Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Var(_) => {}
        Term::Str(_, parts) => parts.iter().for_each(|part| {
            if let StrPart::Term(term) = part {
                visit(term);
            }
        }),
        Term::Arr(term) => term.iter().for_each(|term| visit(term)),
        Term::Obj(entries) => entries.iter().for_each(|(key, value)| {
            visit(key);
            value.iter().for_each(&mut *visit);
        }),
        Term::Neg(term) | Term::Label(_, term) => visit(term),
        Term::BinOp(left, operator, right) => {
            visit(left);
            if let BinaryOp::Pipe(Some(pattern)) = operator {
                of_pattern(pattern, visit);
            }
            visit(right);
        }
        Term::Fold(_, over, pattern, terms) => {
            visit(over);
            of_pattern(pattern, visit);
            terms.iter().for_each(visit);
        }
        Term::TryCatch(body, handler) => {
            visit(body);
            handler.iter().for_each(|term| visit(term));
        }
        Term::IfThenElse(branches, otherwise) => {
            branches.iter().for_each(|(condition, then)| {
                visit(condition);
                visit(then);
            });
            otherwise.iter().for_each(|term| visit(term));
        }
        Term::Def(definitions, term) => {
            definitions.iter().for_each(|definition| visit(&definition.body));
            visit(term);
        }
        Term::Call(_, arguments) => arguments.iter().for_each(visit),
        Term::Path(term, path) => {
            visit(term);
            path.0.iter().for_each(|(part, _)| match part {
                Part::Index(index) => visit(index),
                Part::Range(from, to) => from.iter().chain(to).for_each(&mut *visit),
            });
        }
    }
}

fn fault(source: &str, found: &str, message: String) -> Fault {
    let mut range = load::span(source, found);
    // What was found reaches to the end of the text; its first word is what a person looks for.
    let word = found.find(|c: char| c.is_whitespace()).unwrap_or(found.len());
    range.end = range.start + word;
    Fault { code: "bad-expression", range, message, hint: None }
}

fn expected(source: &str, expected: &str, found: &str) -> Fault {
    let message = match (expected, found) {
        (_, "") => format!("expected {expected} at the end"),
        // What jaq says where it expected that the text ends.
        ("nothing" | "token", _) => "this does not belong here".to_owned(),
        _ => format!("expected {expected} here"),
    };
    fault(source, found, message)
}

fn lex_faults(source: &str, errors: Vec<load::lex::Error<&str>>) -> Vec<Fault> {
    errors.into_iter().map(|(expect, found)| expected(source, expect.as_str(), found)).collect()
}

fn parse_faults(source: &str, errors: Vec<load::parse::Error<&str>>) -> Vec<Fault> {
    errors.into_iter().map(|(expect, found)| expected(source, expect.as_str(), found)).collect()
}

fn load_faults(source: &str, errors: load::Errors<&str, ()>) -> Vec<Fault> {
    let faults = |error| match error {
        load::Error::Lex(errors) => lex_faults(source, errors),
        load::Error::Parse(errors) => parse_faults(source, errors),
        load::Error::Io(errors) => errors
            .into_iter()
            .map(|(path, _)| fault(source, path, "an expression cannot load a module".to_owned()))
            .collect(),
    };
    errors.into_iter().flat_map(|(_, error)| faults(error)).collect()
}

fn undefined_faults(
    source: &str,
    scope: &[String],
    errors: load::Errors<&str, (), Vec<jaq_core::compile::Error<&str>>>,
) -> Vec<Fault> {
    let fault = |(name, kind): (&str, Undefined)| {
        let range = load::span(source, name);
        let (code, message, hint) = match kind {
            Undefined::Var => unknown_variable(name, scope),
            Undefined::Filter(arity) => {
                let withheld = functions::WITHHELD.iter().find(|(withheld, _)| *withheld == name);
                let hint = withheld.map(|(_, reason)| (*reason).to_owned());
                ("bad-expression", format!("there is no function {name}/{arity}"), hint)
            }
            other => ("bad-expression", format!("there is no {} {name}", other.as_str()), None),
        };
        Fault { code, range, message, hint }
    };
    errors.into_iter().flat_map(|(_, errors)| errors).map(fault).collect()
}

fn unknown_variable(name: &str, scope: &[String]) -> (&'static str, String, Option<String>) {
    let here = || {
        let names: Vec<String> = scope.iter().map(|name| format!("${name}")).collect();
        Some(format!("here are {}", names.join(", ")))
    };
    match name {
        "$secrets" => (
            "secret-withheld",
            "a flow cannot read secrets".to_owned(),
            Some("name a connection in the task's metadata; the host adds its credential to the request".to_owned()),
        ),
        "$authorization" => (
            "secret-withheld",
            "a flow cannot read the authorization of a call".to_owned(),
            Some("the host adds the credential to the request; a flow never sees it".to_owned()),
        ),
        "$ENV" => (
            "undefined-variable",
            "there is no variable $ENV".to_owned(),
            Some("the environment belongs to the host; give the flow an input instead".to_owned()),
        ),
        "$context" | "$input" | "$output" | "$task" | "$workflow" | "$runtime" => {
            ("undefined-variable", format!("the variable {name} has no value in this place"), here())
        }
        _ => ("undefined-variable", format!("there is no variable {name}"), here()),
    }
}

#[cfg(test)]
mod tests;
