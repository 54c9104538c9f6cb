package install

import (
	"context"
	"fmt"
	"time"
)

// A tally is what a change cost, of all addresses together.
type tally struct {
	requests, lost, cut, unanswered int
	// longest is the longest time without a success for any address.
	longest time.Duration
}

func (t *tally) add(more tally) {
	t.requests += more.requests
	t.lost += more.lost
	t.cut += more.cut
	t.unanswered += more.unanswered
	t.longest = max(t.longest, more.longest)
}

// A plannedChange is one of the changes that are made over and over.
type plannedChange struct {
	name string
	make func(context.Context) error
}

// plannedChanges are what an operator does to a cluster that is in use. The value
// is another in every round, so that each upgrade replaces all Pods.
func (r *run) plannedChanges(round int) []plannedChange {
	level := []string{"debug", "info"}[round%2]
	return []plannedChange{
		{"upgrade", func(ctx context.Context) error { return r.changeValue(ctx, "log.level="+level) }},
		{"drain", r.drainAnnotated},
		{"SIGTERM", r.terminateSpeaker},
		{"controllers", r.restartControllers},
	}
}

// rounds makes the planned changes over and over on one cluster, and ends with a
// table of what each lost in each round.
func (r *run) rounds(ctx context.Context, n int) error {
	var all tally
	header := fmt.Sprintf("%-6s", "round")
	for _, c := range r.plannedChanges(0) {
		header += fmt.Sprintf("%14s", c.name)
	}
	table := []string{header}
	for round := range n {
		row := fmt.Sprintf("%-6d", round+1)
		for _, c := range r.plannedChanges(round) {
			if err := c.make(ctx); err != nil {
				return fmt.Errorf("round %d: %s: %w", round+1, c.name, err)
			}
			row += fmt.Sprintf("%14s", fmt.Sprintf("%d of %d", r.last.lost, r.last.requests))
			all.add(r.last)
		}
		table = append(table, row)
	}
	r.step("What %d rounds of planned changes lost, of all requests", n)
	for _, line := range table {
		r.say("%s", line)
	}
	r.say("in all %d requests, %d lost, %d cut by a move; %d questions unanswered; longest time without a success %s",
		all.requests, all.lost, all.cut, all.unanswered, all.longest.Round(time.Millisecond))
	return nil
}

// terminateSpeaker has the kubelet end the speaker of the node that answers for an
// address, by SIGTERM. The DaemonSet makes another.
func (r *run) terminateSpeaker(ctx context.Context) error {
	owner, err := r.owner(ctx, r.addresses[0])
	if err != nil {
		return err
	}
	pod, err := r.get(ctx, "{.items[0].metadata.name}", "pods", inNamespace, "--selector=app.kubernetes.io/component=speaker", "--field-selector=spec.nodeName="+owner)
	if err != nil {
		return err
	}
	r.step("Ending the speaker of %s, which answers for %s; planned", owner, r.addresses[0])
	return r.during(ctx, planned, func(note func(string, ...any)) error {
		note("kubectl delete pod %s", pod)
		if err := r.kubectl(ctx, "delete", "pod", pod, inNamespace); err != nil {
			return err
		}
		return r.rolledOut(ctx)
	})
}
