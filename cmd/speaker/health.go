package main

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/belfrylb/belfry/internal/election"
)

// A health says whether the speaker is ready: it has read the cluster, and
// learned from the others who owns what.
type health struct{ ready atomic.Pointer[func() bool] }

// watch makes readiness what a function says. Until then nothing is ready.
func (h *health) watch(ready func() bool) { h.ready.Store(&ready) }

// missing returns what the speaker waits for, or nil when it is ready.
func (h *health) missing() error {
	if ready := h.ready.Load(); ready == nil || !(*ready)() {
		return errors.New("has not learned yet what to announce")
	}
	return nil
}

// joined reports whether a node is a member that has learned who owns what.
func joined(members []election.Member, node string) bool {
	return slices.ContainsFunc(members, func(m election.Member) bool { return m.Node == node && m.State != election.Joining })
}
