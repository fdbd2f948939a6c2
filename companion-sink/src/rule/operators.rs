//! Comparing and computing in rules. The language itself is strict about kinds of numbers, and knows nothing of our
//! moments, so its operators are replaced by these.

use std::cmp::Ordering;

use cel::common::ast::operators;
use cel::common::functions::Function;
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelString, CelUInt, DYN_TYPE, STRING_TYPE,
};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError};

use crate::rule::moment::RuleMoment;

/// The language's name of an operator, our function's name, and the function.
const REPLACED: [(&str, &str, Function); 12] = [
    (operators::LESS, "<", |args| {
        ordered("<", &args, Ordering::is_lt)
    }),
    (operators::LESS_EQUALS, "<=", |args| {
        ordered("<=", &args, Ordering::is_le)
    }),
    (operators::GREATER, ">", |args| {
        ordered(">", &args, Ordering::is_gt)
    }),
    (operators::GREATER_EQUALS, ">=", |args| {
        ordered(">=", &args, Ordering::is_ge)
    }),
    (operators::EQUALS, "==", |args| {
        Ok(truth(equal(args[0].as_ref(), args[1].as_ref())))
    }),
    (operators::NOT_EQUALS, "!=", |args| {
        Ok(truth(!equal(args[0].as_ref(), args[1].as_ref())))
    }),
    (operators::IN, "in", |args| is_in(&args)),
    (operators::ADD, "+", |args| compute("+", &args)),
    (operators::SUBSTRACT, "-", |args| compute("-", &args)),
    (operators::MULTIPLY, "*", |args| compute("*", &args)),
    (operators::DIVIDE, "/", |args| compute("/", &args)),
    (operators::MODULO, "%", |args| compute("%", &args)),
];

/// Our function in place of an operator.
pub(crate) fn replacement(operator: &str) -> Option<&'static str> {
    let mut replaced = REPLACED.iter();
    replaced.find_map(|(theirs, ours, _)| (*theirs == operator).then_some(*ours))
}

/// The language's own functions, these operators, and `timestamp`.
pub(crate) fn environment() -> Result<Env, DeclarationError> {
    let mut env = Env::stdlib();
    for (_, name, function) in REPLACED {
        env.add_overload(name, name, vec![DYN_TYPE, DYN_TYPE], function)?;
    }
    env.add_overload(
        "timestamp",
        "timestamp_of_text",
        vec![STRING_TYPE],
        |args| {
            let text = args[0].downcast_ref::<CelString<'_>>();
            match text.and_then(|text| RuleMoment::parse(text.inner())) {
                Some(moment) => Ok(CowVal::owned(moment)),
                None => Err(ExecutionError::function_error("timestamp", "not a moment")),
            }
        },
    )?;
    Ok(env)
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i64),
    Double(f64),
}

impl Number {
    fn of(value: &dyn Val) -> Option<Number> {
        if let Some(whole) = value.downcast_ref::<CelInt>() {
            Some(Number::Whole(*whole.inner()))
        } else if let Some(double) = value.downcast_ref::<CelDouble>() {
            Some(Number::Double(*double.inner()))
        } else {
            let unsigned = *value.downcast_ref::<CelUInt>()?.inner();
            Some(i64::try_from(unsigned).map_or(Number::Double(unsigned as f64), Number::Whole))
        }
    }

    /// The number that a text is. `Nan` is a name.
    fn of_text(text: &str) -> Option<Number> {
        let is_plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        let number = text.bytes().all(is_plain).then(|| text.parse().ok());
        number.flatten().map(Number::Double)
    }

    fn double(self) -> f64 {
        match self {
            Number::Whole(whole) => whole as f64,
            Number::Double(double) => double,
        }
    }

    /// As PostgreSQL orders them: NaN equals itself and is greater than all others.
    fn order(self, other: Number) -> Ordering {
        match (self, other) {
            (Number::Whole(a), Number::Whole(b)) => a.cmp(&b),
            (a, b) => {
                let (a, b) = (a.double(), b.double());
                let nan = a.is_nan().cmp(&b.is_nan());
                a.partial_cmp(&b).unwrap_or(nan)
            }
        }
    }
}

fn text(value: &dyn Val) -> Option<&str> {
    value
        .downcast_ref::<CelString<'_>>()
        .map(|text| text.inner())
}

/// The order of what is not of one kind for the language: moments and texts that are moments, numbers of any kind and
/// texts that are numbers.
fn our_order(a: &dyn Val, b: &dyn Val) -> Option<Ordering> {
    let moment = |value: &dyn Val| value.downcast_ref::<RuleMoment>().copied();
    if moment(a).is_some() || moment(b).is_some() {
        let read = |value: &dyn Val| moment(value).or_else(|| RuleMoment::parse(text(value)?));
        return Some(read(a)?.cmp(&read(b)?));
    }
    if Number::of(a).is_some() || Number::of(b).is_some() {
        let read = |value: &dyn Val| {
            let of_text = || Number::of_text(text(value)?);
            Number::of(value).or_else(of_text)
        };
        return Some(read(a)?.order(read(b)?));
    }
    None
}

fn ordered<'b, 'v>(
    operator: &str,
    args: &[CowVal<'b, 'v>],
    holds: fn(Ordering) -> bool,
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (a, b) = (args[0].as_ref(), args[1].as_ref());
    let their_order = || a.as_comparer()?.compare(b).ok();
    match our_order(a, b).or_else(their_order) {
        Some(order) => Ok(truth(holds(order))),
        None => Err(no_overload(operator, args)),
    }
}

fn equal(a: &dyn Val, b: &dyn Val) -> bool {
    match our_order(a, b) {
        Some(order) => order.is_eq(),
        None => a.equals(b),
    }
}

fn is_in<'b, 'v>(args: &[CowVal<'b, 'v>]) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (value, container) = (args[0].as_ref(), args[1].as_ref());
    if let Some(list) = container.downcast_ref::<CelList<'_>>() {
        let mut items = list.inner().iter();
        return Ok(truth(items.any(|item| equal(value, item.as_ref()))));
    }
    let container = container.as_container();
    let found = container.and_then(|container| container.contains(value).ok());
    found.map(truth).ok_or_else(|| no_overload("in", args))
}

/// Two kinds of numbers are computed with as doubles.
fn compute<'b, 'v>(
    operator: &'static str,
    args: &[CowVal<'b, 'v>],
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (a, b) = (args[0].as_ref(), args[1].as_ref());
    let doubles = match (Number::of(a), Number::of(b)) {
        (Some(a), Some(b)) if args[0].get_type() != args[1].get_type() => {
            Some((CelDouble::from(a.double()), CelDouble::from(b.double())))
        }
        _ => None,
    };
    let computed = match &doubles {
        Some((a, b)) => apply(operator, a, b),
        None => apply(operator, a, b),
    };
    match computed {
        None | Some(Err(ExecutionError::UnsupportedBinaryOperator(..))) => {
            Err(no_overload(operator, args))
        }
        Some(computed) => computed.map(CowVal::Owned),
    }
}

/// The language's own operator; none where values like `a` have none.
fn apply<'v>(
    operator: &str,
    a: &(dyn Val + 'v),
    b: &(dyn Val + 'v),
) -> Option<Result<Box<dyn Val + 'v>, ExecutionError>> {
    let computed = match operator {
        "+" => a.as_adder()?.add(b),
        "-" => a.as_subtractor()?.sub(b),
        "*" => a.as_multiplier()?.mul(b),
        "/" => a.as_divider()?.div(b),
        _ => a.as_modder()?.modulo(b),
    };
    Some(computed.map(CowVal::into_owned))
}

fn truth<'b, 'v>(holds: bool) -> CowVal<'b, 'v> {
    CowVal::owned(CelBool::from(holds))
}

fn no_overload(operator: &str, args: &[CowVal<'_, '_>]) -> ExecutionError {
    let types = args.iter().map(|arg| arg.get_type().name().to_owned());
    ExecutionError::no_such_overload(operator, types.collect())
}
