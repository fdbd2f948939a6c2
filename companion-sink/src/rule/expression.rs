//! The expression of a rule: read, checked and made ready once.

use crate::rule::needs::{Members, Needs};

use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue};
use cel::common::types::{CelBool, CelInt, CelNull};
use cel::{Context, Env, ExecutionError, IdedExpr, Value};

use crate::config::nearest;
use crate::rule::operators::{environment, replacement};
use crate::rule::subject::Subject;

/// What the expression of a rule can look at: events of rows.
const OF_ROWS: &[&str] = &["before", "after", "op", "audit"];
/// What an expression about all events can look at.
pub(crate) const OF_EVENTS: &[&str] = &["before", "after", "op", "audit", "value"];

static ENVIRONMENT: LazyLock<Result<Arc<Env>, String>> = LazyLock::new(|| match environment() {
    Ok(env) => Ok(Arc::new(env)),
    Err(error) => Err(error.to_string()),
});

/// A condition on an event.
#[derive(Clone)]
pub(crate) struct Expression {
    root: Arc<IdedExpr>,
    env: Arc<Env>,
    needs: Needs,
}

/// What an expression says of an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    True,
    False,
    /// Something that it looks at is NULL.
    Null,
    /// The event does not have what it looks at.
    Missing,
    /// It cannot be told, and why, without any value.
    Unclear(String),
}

impl Expression {
    /// Reads the expression of a rule; what is wrong with it is told in words.
    pub(crate) fn read(source: &str) -> Result<Expression, String> {
        Expression::read_over(source, OF_ROWS)
    }

    /// As [`Expression::read`], of an expression that can look at `variables`.
    pub(crate) fn read_over(
        source: &str,
        variables: &'static [&'static str],
    ) -> Result<Expression, String> {
        let env = ENVIRONMENT.clone()?;
        let program = env.compile(source).map_err(|errors| {
            let errors = errors.errors.iter();
            let told: Vec<_> = errors
                .map(|error| {
                    format!(
                        "{} (line {}, column {})",
                        error.msg, error.pos.0, error.pos.1
                    )
                })
                .collect();
            told.join("; ")
        })?;
        let mut root = program.expression().clone();
        let mut preparation = Preparation {
            context: Context::with_env(Arc::clone(&env)),
            env: &env,
            variables,
            bound: Vec::new(),
            needs: Needs::default(),
        };
        preparation.prepare(&mut root)?;
        let needs = std::mem::take(&mut preparation.needs);
        drop(preparation);
        Ok(Expression {
            root: Arc::new(root),
            env,
            needs,
        })
    }

    /// The parts of an event that it looks at.
    pub(crate) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// What it says of an event.
    pub(crate) fn answer(&self, subject: &Subject<'_>) -> Judgement {
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.set_variable_resolver(subject);
        match Value::resolve_val(&self.root, &context) {
            Ok(value) => match value.downcast_ref::<CelBool>() {
                Some(holds) if *holds.inner() => Judgement::True,
                Some(_) => Judgement::False,
                None if value.downcast_ref::<CelNull>().is_some() => Judgement::Null,
                None => Judgement::Unclear(format!("it is {}, not bool", value.get_type().name())),
            },
            Err(error) => unclear(&error),
        }
    }
}

/// The kind of an error. Its own text may hold values of the row.
fn unclear(error: &ExecutionError) -> Judgement {
    const NULL: &str = "null_type";
    match error {
        ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_) => Judgement::Missing,
        ExecutionError::NoSuchOverload(overload) => {
            let types = overload.argument_types();
            if types.iter().any(|name| name == NULL) {
                return Judgement::Null;
            }
            Judgement::Unclear(format!(
                "{} of {}",
                overload.function(),
                types.join(" and ")
            ))
        }
        ExecutionError::UnexpectedType { got, .. } if got == NULL => Judgement::Null,
        ExecutionError::UnexpectedType { got, want } => {
            Judgement::Unclear(format!("{got} where {want} is needed"))
        }
        ExecutionError::FunctionError { function, .. } => {
            Judgement::Unclear(format!("{function} failed"))
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            Judgement::Unclear("a division by zero".into())
        }
        ExecutionError::Overflow(..) => Judgement::Unclear("a number out of range".into()),
        _ => Judgement::Unclear("it cannot be evaluated".into()),
    }
}

/// One pass over an expression.
struct Preparation<'e> {
    context: Context<'e, 'e>,
    env: &'e Env,
    /// What the expression can look at.
    variables: &'static [&'static str],
    /// Names that macros such as `exists` bind.
    bound: Vec<String>,
    needs: Needs,
}

impl Preparation<'_> {
    /// Checks names, notes what is looked at, and puts our operators in place of the language's.
    fn prepare(&mut self, expr: &mut IdedExpr) -> Result<(), String> {
        match &mut expr.expr {
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
            Expr::Ident(name) => self.prepare_name(name),
            Expr::Select(select) => {
                if let Expr::Ident(name) = &select.operand.expr
                    && !self.bound.contains(name)
                    && self.variables.contains(&name.as_str())
                    && let Some(members) = self.needs.part(name)
                {
                    members.add(&Members::Named([select.field.clone()].into()));
                    return Ok(());
                }
                self.prepare(&mut select.operand)
            }
            Expr::Call(call) => self.prepare_call(call),
            Expr::Comprehension(comprehension) => self.prepare_comprehension(comprehension),
            Expr::List(list) => self.prepare_all(list.elements.iter_mut()),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    match &mut entry.expr {
                        EntryExpr::MapEntry(entry) => {
                            self.prepare_all([&mut entry.key, &mut entry.value].into_iter())?;
                        }
                        EntryExpr::StructField(field) => self.prepare(&mut field.value)?,
                    }
                }
                Ok(())
            }
            Expr::Struct(message) => Err(format!("unknown type \"{}\"", message.type_name)),
        }
    }

    fn prepare_all<'x>(
        &mut self,
        mut exprs: impl Iterator<Item = &'x mut IdedExpr>,
    ) -> Result<(), String> {
        exprs.try_for_each(|expr| self.prepare(expr))
    }

    fn prepare_name(&mut self, name: &str) -> Result<(), String> {
        if self.bound.iter().any(|bound| bound == name) {
            return Ok(());
        }
        let is_known = self.variables.contains(&name);
        if is_known && let Some(members) = self.needs.part(name) {
            *members = Members::All;
            return Ok(());
        }
        if is_known || self.env.types().find_type(name).is_some() {
            return Ok(());
        }
        let near = nearest(name, self.variables.iter().copied());
        let meant = near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
        let known = self.variables.join(", ");
        Err(format!(
            "unknown variable \"{name}\"{meant} ({known} are there)"
        ))
    }

    fn prepare_call(&mut self, call: &mut CallExpr) -> Result<(), String> {
        match replacement(&call.func_name) {
            Some(ours) if call.args.len() == 2 && call.target.is_none() => {
                ours.clone_into(&mut call.func_name);
            }
            _ => self.check_function(call)?,
        }
        if let Some(target) = &mut call.target {
            self.prepare(target)?;
        }
        self.prepare_all(call.args.iter_mut())
    }

    /// The interpreter tells a function that does not exist from one that does not take nothing.
    fn check_function(&self, call: &CallExpr) -> Result<(), String> {
        let is_operator = !call.func_name.starts_with(char::is_alphabetic);
        if is_operator {
            return Ok(());
        }
        let on_number = || {
            let number = Expr::Literal(LiteralValue::Int(CelInt::from(0)));
            Box::new(IdedExpr {
                id: 0,
                expr: number,
            })
        };
        let probe = Expr::Call(CallExpr {
            func_name: call.func_name.clone(),
            target: call.target.as_ref().map(|_| on_number()),
            args: Vec::new(),
        });
        let probe = IdedExpr { id: 0, expr: probe };
        match Value::resolve(&probe, &self.context) {
            Err(ExecutionError::UndeclaredReference(_)) => {
                Err(format!("unknown function \"{}\"", call.func_name))
            }
            _ => Ok(()),
        }
    }

    fn prepare_comprehension(&mut self, all: &mut ComprehensionExpr) -> Result<(), String> {
        self.prepare_all([&mut all.iter_range, &mut all.accu_init].into_iter())?;
        let outer = self.bound.len();
        self.bound
            .extend([all.iter_var.clone(), all.accu_var.clone()]);
        self.bound.extend(all.iter_var2.clone());
        let inner = [&mut all.loop_cond, &mut all.loop_step, &mut all.result];
        let done = self.prepare_all(inner.into_iter());
        self.bound.truncate(outer);
        done
    }
}
