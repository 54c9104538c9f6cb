// Package controller is the allocation loop: it tells an [allocator.Planner] of
// every change of the cluster and carries out what that decides.
//
// One goroutine owns the plan. It wakes when the cluster has changed, when a
// write has returned, or when a moment has come that was waited for; it never
// waits for the API server itself. Writes run beside it, as many as the
// controller permits, at most one at a time for each object; the object that
// comes back from a write enters the loop like any other change. So nothing is
// remembered about a write but that it is under way, and a decision counts as
// carried out when the cluster shows it.
//
// The first change is acted upon at once. Those that follow within the cool-down
// are taken together. In a converged cluster nothing is written, and only a
// reservation that ends wakes the loop.
//
// A write that fails concerns its own object alone. Whether it is tried again,
// and when, depends on its [kube.Outcome] only.
package controller
