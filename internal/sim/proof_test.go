package sim

import (
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

const (
	// proofInterval is how often the segment is asked about what was verified: more
	// often than in life, so that histories of seconds have many such questions.
	proofInterval = 3 * time.Second
	// proofMost is for how long back what the segment has answered may bear on a result:
	// two rounds, the pause between them, and some time to conclude.
	proofMost = 4 * time.Second
)

// prove asks on a segment as a client would, by the product's Round.
func (n *node) prove(q proof.Question) {
	r := proof.NewRound(n.time(), q)
	boot := n.boot
	failed := !n.carrier[n.w.segmentOf(q.Interface)]
	var step func()
	step = func() {
		ask, wake := r.Next(n.time())
		for _, a := range ask {
			n.w.asks(n, q.Interface, a, func(mac lb.MAC) { r.Hear(n.time(), a, mac) })
		}
		if wake.IsZero() {
			n.soon(func() { n.core.Proved(n.time(), q, r.Answers(), failed) })
			return
		}
		n.w.after(n.until(wake), func() {
			if n.boot == boot {
				n.turn(step)
			}
		})
	}
	step()
}

// verifies reports whether the node says that an address is answered for by its owner
// alone.
func (n *node) verifies(a netip.Addr) bool {
	return n.seen != nil && slices.ContainsFunc(n.seen.Proofs, func(v proof.Result) bool { return v.Address == a && v.Kind == proof.Verified })
}

// voices is how many answers there are to the question for an address, since when.
type voices struct {
	since time.Duration
	n     int
}

// count takes note of how many answer for an address from now on.
func (c *checker) count(a netip.Addr, n int) {
	all := c.heard[a]
	if len(all) > 0 && all[len(all)-1].n == n {
		return
	}
	for len(all) > 1 && all[1].since < c.w.now-proofMost {
		all = all[1:]
	}
	c.heard[a] = append(slices.Clone(all), voices{c.w.now, n})
}

// lately returns for how long in the time that bears on a result it was so.
func (c *checker) lately(a netip.Addr, is func(n int) bool) (sum time.Duration) {
	end := c.w.now
	for _, v := range slices.Backward(c.heard[a]) {
		if begin := max(v.since, c.w.now-proofMost); begin < end {
			if is(v.n) {
				sum += end - begin
			}
			end = begin
		}
	}
	return sum
}

// judge compares what a node says of an address with what was so.
func (c *checker) judge(n *node, v proof.Result) {
	if n.seen != nil && slices.ContainsFunc(n.seen.Proofs, func(o proof.Result) bool { return o.Equal(v) && o.Since.Equal(v.Since) }) {
		return // it was said before
	}
	w := c.w
	w.note("  %s: %v of %s: %v %v", n.name, v.Address, v.Owner, v.Kind, v.By)
	owner := w.named(v.Owner)
	switch v.Kind {
	case proof.Verified:
		if c.lately(v.Address, func(n int) bool { return n > 0 }) == 0 {
			w.fail("%s says that %s is answered for by %s alone, and nobody has answered\n%s", n.name, v.Address, v.Owner, w)
		}
		for _, other := range w.nodes {
			if other != owner && other != n && other.kernel[v.Address] && w.lossless() && w.onSegment(w.segmentFor(v.Address), n.id, other.id) && w.now > other.leftover+proofMost {
				w.fail("%s says that %s is answered for by %s alone, and so does the kernel of %s\n%s", n.name, v.Address, v.Owner, other.name, w)
			}
		}
	case proof.AnsweredTwice:
		c.told[v.Address] = true
		// What a hand-over or the healing of a partition takes is no fault.
		if twice := c.lately(v.Address, func(n int) bool { return n > 1 }); w.lossless() && twice <= bothMost || twice == 0 {
			w.fail("%s says that %s of %s is answered for twice (%v); it was for %v\n%s", n.name, v.Address, v.Owner, v.By, twice, w)
		}
	case proof.Unanswered:
		c.told[v.Address] = true
		if silent := c.lately(v.Address, func(n int) bool { return n == 0 }); silent == 0 {
			w.fail("%s says that %s of %s is not answered for, and it always was\n%s", n.name, v.Address, v.Owner, w)
		}
	}
}
