package controller

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/placement"
)

// How fast a rebalancing goes: so many addresses in a step, and a pause between
// two steps. A move has no gap, but the switches have to learn it
// (docs/design/placement.md).
const (
	stepMoves = 10
	stepPause = time.Second
)

// rebalance takes the next step of the rebalancings that are asked for, if it is
// time: the pause is over, and what the last step moved is written. Otherwise it
// says when to look again.
//
// What is left to do is in the status of the advertisements and in the places of
// the Services, so the next leader goes on where this one ends.
func (l *loop) rebalance() {
	l.moving = time.Time{}
	tokens := map[*configObject]string{}
	for key, a := range l.configObjects {
		if key.kind != kube.KindL2Advertisement {
			continue
		}
		if token, _ := l.Cluster.Rebalancing(key.name); token != "" && (token != a.Progress.Token || a.Progress.Left > 0) {
			tokens[a] = token
		}
	}
	if len(tokens) == 0 {
		return
	}
	if due := l.movedAt.Add(stepPause); time.Now().Before(due) {
		l.moving = due
		return
	}
	l.movedAt = time.Now()
	if slices.ContainsFunc(l.moved, l.pending) {
		l.moving = l.movedAt.Add(stepPause)
		return
	}
	world, _ := l.world(slices.Collect(maps.Keys(l.services)))
	index := announce.NewIndex(world, l.Announce)
	budget := stepMoves
	l.moved = nil
	for _, a := range slices.SortedFunc(maps.Keys(tokens), func(a, b *configObject) int { return cmp.Compare(a.Name, b.Name) }) {
		sites := index.SitesOf(a.Name)
		load := l.believe(sites)
		moves := placement.Rebalance(load, sites)
		var n int
		a.Progress, n = a.Progress.Step(tokens[a], len(moves), budget)
		budget -= n
		for _, m := range moves[:n] {
			l.places.set(m.Address, m.Node)
			l.moved = append(l.moved, l.holders[m.Address]...)
		}
		l.Log.Info("rebalancing", "advertisement", a.Name, "token", tokens[a], "moves", n, "left", a.Progress.Left)
		l.forgive(&a.attempt)
		l.look(&a.attempt)
		if a.Progress.Left > 0 {
			l.moving = l.movedAt.Add(stepPause)
		}
	}
	slices.SortFunc(l.moved, lb.ServiceKey.Compare)
	l.moved = slices.Compact(l.moved)
	for _, key := range l.moved {
		s := l.services[key]
		s.placed = l.placesOf(s.decision)
		s.itsTurn = true // the status of the advertisement says that it is moved
		l.look(&s.attempt)
	}
}

// pending reports whether a Service does not carry yet what it should, but for what
// others insist on.
func (l *loop) pending(key lb.ServiceKey) bool {
	s := l.services[key]
	is, ok := l.Cluster.Service(key)
	return s != nil && ok && is.Missing(s.contested(s.want(), &is))&^s.rivalry.over != 0
}
