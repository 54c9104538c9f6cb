package main

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/election"
)

// A health says whether the speaker is ready: it has read the cluster, learned
// from the others who owns what, and told its routers.
type health struct {
	missed  atomic.Pointer[func() error]
	noticed atomic.Pointer[func() string]
}

// notice makes a function say what is wrong and no reason not to be ready.
func (h *health) notice(notes func() string) { h.noticed.Store(&notes) }

// notes returns what is wrong and no reason not to be ready, empty for nothing.
func (h *health) notes() string {
	if notes := h.noticed.Load(); notes != nil {
		return (*notes)()
	}
	return ""
}

// watch makes readiness what a function says: nil, or what is missing. Until
// then nothing is ready.
func (h *health) watch(missing func() error) { h.missed.Store(&missing) }

// missing returns what the speaker waits for, or nil when it is ready.
func (h *health) missing() error {
	if missing := h.missed.Load(); missing != nil {
		return (*missing)()
	}
	return errUnlearned
}

var (
	errUnlearned = errors.New("has not learned yet what to announce")
	errUntold    = errors.New("has not told its BGP routers yet what it announces")
)

// joined reports whether a node is a member that has learned who owns what.
func joined(members []election.Member, node string) bool {
	return slices.ContainsFunc(members, func(m election.Member) bool { return m.Node == node && m.State != election.Joining })
}

// routerPatience is how long readiness waits for routers. It is longer than
// connecting takes, with an attempt that fails first; and a router that is away
// must not hold up a rolling update for ever (docs/design/gobgp.md).
const routerPatience = 20 * time.Second

// An introduction is over once all routers have been told all routes, or after
// routerPatience; a session that falls later is no reason not to be ready. A
// rolling update that waits for it never has fewer nodes announcing than it
// means to.
type introduction struct {
	mu    sync.Mutex
	begun time.Time
	over  bool
}

// ended reports whether it is over.
func (i *introduction) ended(intent *bgp.Intent, views []bgp.SessionView, now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.begun.IsZero() {
		i.begun = now
	}
	i.over = i.over || told(intent, views) || now.Sub(i.begun) >= routerPatience
	return i.over
}

// told reports whether every session there is to be is established, and the
// router has been told all that it should have.
func told(intent *bgp.Intent, views []bgp.SessionView) bool {
	return !slices.ContainsFunc(intent.Sessions, func(s bgp.Session) bool {
		return !s.Peer.Shutdown && !slices.ContainsFunc(views, func(v bgp.SessionView) bool {
			return v.Peer == s.Peer.Name && v.State == bgp.Established && v.Sent >= v.Routes
		})
	})
}
