package sim

import (
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// How long a session takes to find that it hears nothing, and to come up: as the real
// one, 30 ms x 3, does.
const (
	missedSoonest = 60 * ms
	missedLatest  = 105 * ms
	seenLatest    = 150 * ms
)

// A session is one node's end. What is simulated is its judgment, by who hears whom.
type session struct {
	watch election.Watch
	sight election.Sight
	// since is when it began to be about to see something else; zero while it is not.
	since time.Duration
	next  election.Sight
}

// setRing replaces whom a node watches.
func (n *node) setRing(r election.Ring) {
	var next []*session
	for _, w := range r.Watches {
		if i := slices.IndexFunc(n.sessions, func(s *session) bool { return s.watch == w }); i >= 0 {
			next = append(next, n.sessions[i])
		} else {
			next = append(next, &session{watch: w})
		}
	}
	n.sessions = next
	for _, q := range r.Soundings {
		if !n.sounding[q] {
			n.sounding[q] = true
			n.sound(q)
		}
	}
	for q := range n.sounding {
		if !slices.Contains(r.Soundings, q) {
			delete(n.sounding, q)
		}
	}
	n.w.sight()
}

// sound asks a station once a second for as long as that is wanted.
func (n *node) sound(q election.SegmentQuestion) {
	if !n.sounding[q] || !n.running {
		return
	}
	boot, asked := n.boot, n.w.now
	if !n.paused {
		n.w.asks(n, q.Interface, q.Target, func(from lb.MAC) {
			if n.boot == boot && from == q.MAC && n.w.now-asked < time.Second {
				n.late(q.Interface).Add(n.time(), n.w.now-asked)
			}
		})
	}
	n.w.after(time.Second, func() {
		if n.boot == boot {
			n.sound(q)
		}
	})
}

// delivers reports whether packets of a session reach a node's end.
func (w *world) delivers(n *node, s *session) bool {
	other := w.named(s.watch.Node)
	segment := w.segmentOf(s.watch.Interface)
	ends := slices.ContainsFunc(other.sessions, func(o *session) bool {
		return o.watch.Node == n.name && o.watch.Local == s.watch.Remote && o.watch.Remote == s.watch.Local
	})
	return ends && other.powered && other.active() && n.carrier[segment] && other.carrier[segment] && !w.networkOf(s.watch.Interface).stops(other.id, n.id)
}

// judges returns what a session is about to see. One whose other end does not hear it
// is down, and not missed.
func (w *world) judges(n *node, s *session) election.Sight {
	other := w.named(s.watch.Node)
	switch here := w.delivers(n, s); {
	case here && slices.ContainsFunc(other.sessions, func(o *session) bool { return o.watch.Node == n.name && w.delivers(other, o) }):
		return election.InSight
	case here:
		return election.NoSight
	case s.sight == election.NoSight:
		return election.NoSight
	default:
		return election.OutOfSight
	}
}

// sight has the sessions see what they do after a while, whenever that may have changed.
func (w *world) sight() {
	for _, n := range w.nodes {
		if !n.active() {
			for _, s := range n.sessions {
				s.since = 0 // What has arrived is read before anybody is missed.
			}
			continue
		}
		for _, s := range n.sessions {
			next := w.judges(n, s)
			switch {
			case next == s.sight:
				s.since = 0
				continue
			case s.since != 0 && s.next == next:
				continue
			}
			s.since, s.next = w.now, next
			wait := w.between(missedSoonest, missedLatest)
			if next == election.InSight {
				wait = w.between(ms, seenLatest)
			}
			since, boot := w.now, n.boot
			w.after(wait, func() {
				if n.boot == boot && n.active() && s.since == since && s.next == next && slices.Contains(n.sessions, s) {
					s.since = 0
					n.sees(s, next)
				}
			})
		}
	}
}

func (n *node) sees(s *session, sight election.Sight) {
	if s.sight == sight {
		return
	}
	s.sight = sight
	n.w.note("  %s: its session with %s is %d", n.name, s.watch.Node, sight)
	n.turn(func() { n.view.Sighted(n.clock(), s.watch, sight) })
	n.w.sight()
}

// starve has a session miss what is there, as one does whose process does not get to
// run, or whose packets are lost; and see it again, a moment later.
func (w *world) starve() {
	n := w.nodes[w.rnd.IntN(len(w.nodes))]
	if n.active() && len(n.sessions) > 0 {
		if s := n.sessions[w.rnd.IntN(len(n.sessions))]; s.sight == election.InSight {
			boot := n.boot
			n.sees(s, election.OutOfSight)
			s.since = w.now // It sees nothing else until then.
			s.next = election.InSight
			w.after(w.between(ms, 120*ms), func() {
				if n.boot == boot && slices.Contains(n.sessions, s) && n.active() {
					s.since = 0
					if w.judges(n, s) == election.InSight {
						n.sees(s, election.InSight)
					}
					w.sight()
				}
			})
		}
	}
	w.after(w.between(100*ms, 3*time.Second), w.starve)
}
