package sim

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/core"
)

// Bounds of the invariants.
const (
	// onceMost is how long an address may have no or two answers where exactly one
	// is to answer whatever happens: a failover. Where gossip is lost and the segment is
	// whole, two that have taken over find out by questions, within severalMost.
	onceMost    = gapMost
	severalMost = time.Second
	// calmAfter is how long after the last disturbance everything must be in
	// order again.
	calmAfter = 4 * time.Second
	// gapMost is how long an address may go unanswered while somebody could
	// answer for it: gossip's verdict, the questions, the decision. gapStalled
	// is the same where a process was stopped, or its kernel can be asked on one
	// network and its port not on another: up to the slow bound.
	gapMost    = lostLatest + 60*ms + 160*ms
	gapStalled = slow + lostLatest + 300*ms
	// bothMost is how long two nodes that hear each other may both answer, on a
	// network that loses nothing: hand-over and healing; what a short cut
	// swallowed is repaired by the next round of pings. bothLossy is the same
	// with loss.
	bothMost = 4*pingEvery + 100*ms
	// leftMost is how long a new address may be left to a node that does not know
	// that it is new, because it was starting.
	leftMost  = 2*time.Second + gapMost
	bothLossy = 3 * time.Second
)

// A checker looks at the world whenever time passes.
type checker struct {
	w *world
	// disturbed is when something last happened to the cluster, stalled when a
	// process was last stopped or started, failed when a node last failed.
	disturbed, stalled, failed time.Duration
	gap, both                  map[netip.Addr]time.Duration // Since when.
	// none and several: not exactly one answers; illicit: one answers that may not, though
	// another could.
	none, several, illicit map[netip.Addr]time.Duration
	told                   map[netip.Addr]bool // of a conflict
	still                  map[netip.Addr]int  // who alone may answer, while nothing fails
	// heard is how many have answered for an address, lately.
	heard map[netip.Addr][]voices
	// calm is who owned what at the last calm moment, touched who was affected
	// by anything since.
	calm      map[netip.Addr]int
	touched   map[int]bool
	moved     map[netip.Addr]bool // Whose configuration changed.
	created   netip.Addr          // The last that came into being, and when all knew.
	createdAt time.Duration
	// verb is the last step, where nothing is lost and there was time to recover
	// before it; empty otherwise.
	verb                string
	worstGap, worstBoth time.Duration
	// settled: connectivity is clean and all know the same configuration;
	// whole: all that run hear each other; compared: and were compared.
	settled, whole, compared bool
}

func (c *checker) init(w *world) {
	*c = checker{w: w, gap: map[netip.Addr]time.Duration{}, both: map[netip.Addr]time.Duration{}, none: map[netip.Addr]time.Duration{}, several: map[netip.Addr]time.Duration{}, illicit: map[netip.Addr]time.Duration{}, told: map[netip.Addr]bool{}, still: map[netip.Addr]int{}, heard: map[netip.Addr][]voices{}, touched: map[int]bool{}, moved: map[netip.Addr]bool{}}
	c.stalled = calmAfter
}

// disturb is called when something happens.
func (c *checker) disturb() {
	c.disturbed = c.w.now
	clear(c.gap)
	clear(c.both)
	clear(c.illicit)
	c.w.changed = true
}

// could reports whether the node could answer for the address, as far as it is
// concerned: it runs, has a cable, may, and has learned who owns what.
func (c *checker) could(n *node, a netip.Addr) bool {
	return n.active() && n.carrier[c.w.segmentFor(a)] && !n.leaving && !n.config.absent[a] && !n.config.barred[a][n.id] && n.own != nil && !n.own.Joining
}

func (c *checker) answers(n *node, a netip.Addr) bool {
	return n.answers(a)
}

// before is called before time goes on to t; the world was as it is since now.
func (c *checker) before(t time.Duration) {
	w := c.w
	if t == w.now {
		return
	}
	if w.changed {
		w.changed = false
		c.look()
	}
	for a := range c.gap {
		limit := gapMost
		if w.uneven() || w.now < c.stalled+gapStalled+time.Second {
			limit = gapStalled
		}
		if a == c.created && w.now < c.createdAt+leftMost {
			limit = max(limit, leftMost)
		}
		c.worstGap = max(c.worstGap, t-c.gap[a])
		if t-c.gap[a] > limit {
			w.fail("%s is not answered for since %.3fs although somebody could\n%s", a, c.gap[a].Seconds(), w)
		}
	}
	none, several := onceMost, onceMost
	if w.uneven() {
		several = severalMost
		if slices.ContainsFunc(w.nodes, func(n *node) bool { return n.leaving }) {
			several = core.Farewell + 100*ms // it may not hear who relieves it
		}
		if w.now < c.failed+gapStalled+time.Second {
			none = gapStalled + time.Second
		}
	}
	for a := range c.none {
		if w.once && t-c.none[a] > none {
			w.fail("%s has no answer since %.3fs\n%s", a, c.none[a].Seconds(), w)
		}
	}
	for a := range c.several {
		if w.once && t-c.several[a] > several {
			w.fail("%s has several answers since %.3fs\n%s", a, c.several[a].Seconds(), w)
		}
	}
	for a := range c.illicit {
		if t-c.illicit[a] > gapMost+time.Second {
			w.fail("%s is answered for by a node that may not since %.3fs\n%s", a, c.illicit[a].Seconds(), w)
		}
	}
	for a := range c.both {
		limit := bothMost
		if !w.lossless() {
			limit = bothLossy
		}
		c.worstBoth = max(c.worstBoth, t-c.both[a])
		if t-c.both[a] > limit {
			w.fail("%s is answered for by two that hear each other since %.3fs\n%s", a, c.both[a].Seconds(), w)
		}
	}
	if t < c.disturbed+calmAfter || !c.settled {
		return
	}
	for _, m := range []map[netip.Addr]time.Duration{c.gap, c.both} {
		for a := range m {
			w.fail("%s has no or two owners long after the last disturbance\n%s", a, w)
		}
	}
	if c.whole {
		c.compare()
	}
}

// look finds out how the world is now.
func (c *checker) look() {
	w := c.w
	groups, clean := w.groups()
	agreed := !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.running && !n.config.permits(w.truth) })
	c.settled, c.whole, c.compared = clean && agreed, len(groups) == 1, false
	for _, a := range w.addrs {
		gap, both, back := false, false, false
		answers, illicit := 0, false
		for _, n := range w.nodes {
			speaker, kernel := n.voices(a)
			answers += speaker + kernel
			if speaker == 0 {
				continue
			}
			if owner, pinned := c.still[a]; pinned && owner != n.id {
				w.fail("%s is answered for by %s, too, though nothing has failed\n%s", a, n.name, w)
			}
			w.truth.announced[a] = true
			if n.config.absent[a] {
				w.fail("%s is answered for by %s, where no Service uses it\n%s", a, n.name, w)
			}
			illicit = illicit || n.config.barred[a][n.id] && slices.ContainsFunc(w.nodes, func(m *node) bool { return c.could(m, a) && w.hears(n, m) })
		}
		c.count(a, answers)
		c.lasting(c.none, a, !w.truth.absent[a] && answers == 0)
		c.lasting(c.several, a, answers > 1)
		c.lasting(c.illicit, a, illicit && c.settled)
		for _, g := range groups {
			owners, able := 0, 0
			for _, n := range g {
				if c.answers(n, a) {
					owners++
					back = back || w.now < n.shut+50*ms
				}
				if c.could(n, a) {
					able++
				}
			}
			gap = gap || owners == 0 && able > 0
			both = both || owners > 1
		}
		if both && back && clean && w.lossless() {
			w.fail("%s is answered for by a node that was stopped, and by another\n%s", a, w)
		}
		c.lasting(c.gap, a, gap && c.settled)
		c.lasting(c.both, a, both && c.settled)
		switch c.verb {
		case "crash", "power", "suspect", "stop":
			// Nobody's view of who lives is wrong for long enough.
			if both && clean && w.truth.placed[a] == "" {
				w.fail("%s is claimed by a second node\n%s", a, w)
			}
		case "create":
			// It begins where it is placed.
			for _, n := range w.nodes {
				if p := w.named(cmp.Or(w.truth.placed[a], n.name)); clean && n != p && c.created == a && c.answers(n, a) && c.could(p, a) {
					w.fail("%s is answered for by %s first, not by %s\n%s", a, n.name, p.name, w)
				}
			}
		case "leave", "place", "bar", "allow":
			if gap && clean {
				w.fail("%s is not answered for during a planned move\n%s", a, w)
			}
		}
	}
}

func (c *checker) lasting(m map[netip.Addr]time.Duration, a netip.Addr, is bool) {
	if !is {
		delete(m, a)
	} else if _, ok := m[a]; !ok {
		m[a] = c.w.now
	}
}

// compare finds what moved since the last calm moment, and whether it had a
// cause.
func (c *checker) compare() {
	if c.compared {
		return
	}
	c.compared = true
	now := map[netip.Addr]int{}
	for _, a := range c.w.addrs {
		now[a] = -1
		for _, n := range c.w.nodes {
			if c.answers(n, a) {
				now[a] = n.id
			}
		}
		if last, heard := c.w.cached[a]; now[a] >= 0 && heard && last != now[a] && c.w.lossless() {
			c.w.fail("%s is answered for by n%d, and the neighbors heard n%d last\n%s", a, now[a], last, c.w)
		}
		was, known := c.calm[a]
		// To the node that the controller placed it on it may move at any time:
		// it is the controller that lets placement follow a failover.
		placed := now[a] >= 0 && c.w.truth.placed[a] == c.w.nodes[now[a]].name
		if known && was >= 0 && now[a] != was && !c.touched[was] && !c.moved[a] && !placed {
			c.w.fail("%s moved from n%d to n%d without a cause\n%s", a, was, now[a], c.w)
		}
		// Either the address goes to its place, or the place goes to its owner.
		for _, n := range c.w.nodes {
			if now[a] >= 0 && n.id != now[a] && n.name == c.w.truth.placed[a] && c.could(n, a) {
				c.w.fail("%s is on n%d but placed on n%d, which could have it\n%s", a, now[a], n.id, c.w)
			}
		}
	}
	c.calm = now
	clear(c.touched)
	clear(c.moved)
}

// groups returns the nodes that run as groups that hear each other, by whatever
// network, and whether they are cleanly parted: within a group everybody hears
// everybody on all of them.
func (w *world) groups() (groups [][]*node, clean bool) {
	clean = true
	in := make([]int, len(w.nodes))
	for i := range in {
		in[i] = -1
	}
	for i, n := range w.nodes {
		if !n.active() || in[i] >= 0 {
			continue
		}
		g := []*node{n}
		in[i] = len(groups)
		for k := 0; k < len(g); k++ {
			for j, m := range w.nodes {
				if m.active() && in[j] < 0 && w.hears(g[k], m) {
					in[j] = len(groups)
					g = append(g, m)
				}
			}
		}
		groups = append(groups, g)
	}
	for i, n := range w.nodes {
		for j, m := range w.nodes {
			if i != j && in[i] >= 0 && in[i] == in[j] && n.active() && m.active() && !w.whole(i, j) {
				clean = false
			}
		}
	}
	return groups, clean
}

// lossless reports whether no network loses packets.
func (w *world) lossless() bool {
	return !slices.ContainsFunc(w.networks(""), func(n *network) bool { return n.loss > 0 })
}

// uneven reports whether some network is cut, or a cable out, where another one is not.
func (w *world) uneven() bool {
	for i, n := range w.nodes {
		if n.powered && slices.Contains(n.carrier, !n.carrier[0]) {
			return true
		}
		for j := range w.nodes {
			for _, s := range w.segments {
				if s.cut[i][j] != w.gossip.cut[i][j] {
					return true
				}
			}
		}
	}
	return false
}

// hears reports whether one of two nodes hears the other on any network.
func (w *world) hears(n, m *node) bool {
	i, j := n.id, m.id
	if n.gossips() && m.gossips() && !(w.gossip.cut[i][j] && w.gossip.cut[j][i]) {
		return true
	}
	for k, s := range w.segments {
		if n.carrier[k] && m.carrier[k] && !(s.cut[i][j] && s.cut[j][i]) {
			return true
		}
	}
	return false
}

// whole reports whether two nodes hear each other on every network that both have a
// cable to, of which gossip is one.
func (w *world) whole(i, j int) bool {
	if !w.linked(i, j) || !w.calls(i, j) || w.gossip.late > 0 {
		return false
	}
	for k := range w.segments {
		if w.nodes[i].carrier[k] && w.nodes[j].carrier[k] && !w.onSegment(k, i, j) {
			return false
		}
	}
	return true
}
