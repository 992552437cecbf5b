//! The integer program over columns.

use microlp::{ComparisonOp, OptimizationDirection, Problem, SolveOptions, TerminationReason};

use super::master::{Column, Goal};

/// How often each column is taken, and what is proven about it.
pub(super) struct Whole {
    pub(super) counts: Vec<u32>,
    /// No choice of these columns costs less.
    pub(super) bound: f64,
}

/// Solves for the choice of `columns` that costs least; none where the goal cannot be
/// reached with them, or was not within `most_nodes`. `start` is a choice to begin with.
pub(super) fn solve(
    goal: &Goal,
    columns: &[Column],
    start: Option<&[u32]>,
    most_nodes: u64,
) -> Option<Whole> {
    let mut problem = Problem::new(OptimizationDirection::Minimize);
    let variables: Vec<_> = columns
        .iter()
        .map(|column| {
            let cost = column.cost - goal.reward * column.items.len() as f64;
            problem.add_integer_var(cost, (0, i32::try_from(goal.hosts[column.class]).unwrap_or(i32::MAX)))
        })
        .collect();
    let mut of_class = vec![Vec::new(); goal.hosts.len()];
    let mut of_demand = vec![Vec::new(); goal.quotas.len()];
    for (column, variable) in columns.iter().zip(&variables) {
        of_class[column.class].push((*variable, 1.0));
        for (demand, _) in &column.items {
            of_demand[*demand].push((*variable, 1.0));
        }
    }
    for (terms, hosts) in of_class.iter().zip(&goal.hosts) {
        problem.add_constraint(terms.as_slice(), ComparisonOp::Eq, f64::from(*hosts));
    }
    for (terms, quota) in of_demand.iter().zip(&goal.quotas) {
        if let Some(quota) = quota.filter(|_| !terms.is_empty()) {
            problem.add_constraint(terms.as_slice(), ComparisonOp::Le, f64::from(quota));
        }
    }
    if let Some(least) = goal.least {
        let filled = columns.iter().zip(&variables).filter(|(column, _)| !column.items.is_empty());
        let terms: Vec<_> = filled.map(|(column, v)| (*v, column.items.len() as f64)).collect();
        problem.add_constraint(terms, ComparisonOp::Ge, least as f64);
    }
    let mut options = SolveOptions::default();
    options.node_limit = Some(most_nodes);
    options.warm_start =
        start.map(|start| variables.iter().copied().zip(start.iter().map(|n| f64::from(*n))).collect());
    let outcome = problem.solve_with(options).ok()?;
    let is_proven = outcome.termination_reason() == TerminationReason::ProvenOptimal;
    let solution = outcome.into_solution().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded by hosts of a class"
    )]
    let counts: Vec<u32> = variables.iter().map(|v| solution.var_value(*v).round() as u32).collect();
    let bound = if is_proven {
        solution.objective()
    } else {
        solution.stats().best_bound.unwrap_or(f64::NEG_INFINITY)
    };
    goal.is_met(columns, &counts).then_some(Whole { counts, bound })
}

impl Goal {
    pub(super) fn is_met_by(&self, taken: &[(Column, u32)]) -> bool {
        let (columns, counts): (Vec<Column>, Vec<u32>) = taken.iter().cloned().unzip();
        self.is_met(&columns, &counts)
    }

    /// Whether a choice is what the goal asks for, in whole numbers.
    pub(super) fn is_met(&self, columns: &[Column], counts: &[u32]) -> bool {
        let (mut hosts, mut placed) = (vec![0_u64; self.hosts.len()], vec![0_u64; self.quotas.len()]);
        for (column, count) in columns.iter().zip(counts) {
            hosts[column.class] += u64::from(*count);
            for (demand, _) in &column.items {
                placed[*demand] += u64::from(*count);
            }
        }
        let has_hosts = hosts.iter().zip(&self.hosts).all(|(used, hosts)| *used == u64::from(*hosts));
        let has_quotas = placed.iter().zip(&self.quotas).all(|(placed, quota)| match quota {
            Some(quota) => *placed <= u64::from(*quota),
            None => true,
        });
        has_hosts && has_quotas && self.least.is_none_or(|least| placed.iter().sum::<u64>() >= least)
    }
}
