package election

import (
	"net/netip"
	"slices"
	"time"
)

// grace is how long a node is waited for that claims nothing of what is its to claim
// (docs/design/placement.md).
const grace = 2 * time.Second

// A Holdoff is what a speaker knows of the addresses that no node claims and that are
// another node's to claim.
//
// New addresses, which this speaker has seen come into being, are left to the nodes
// where they are placed, so that they begin there and need not be offered. And a node
// that seems well but does not claim what is its, because its news are old, is waited
// for no longer than grace: after that its turn comes last.
//
// A Holdoff does not have to be the same everywhere. A speaker that knows of another
// place, or of none, or has waited for longer, may claim what others leave to another:
// that claim counts.
//
// The zero Holdoff leaves nothing to anybody. All of it belongs to one goroutine.
type Holdoff struct {
	waits map[netip.Addr]*wait
	hosts map[string]*host
}

// A wait is for a node to claim an address.
type wait struct {
	node string // empty: none in particular
	// first is set while it goes first because the address is placed there.
	first bool
	vain  []string // who was waited for in vain
}

// A host is a node that is waited for.
type host struct {
	addresses int
	// until is how long: each claim of one of the addresses renews it.
	until time.Time
}

// Leave says that a new address is left to the node where it is placed.
func (c *Holdoff) Leave(now time.Time, a netip.Addr, node string) {
	if w := c.waits[a]; w != nil && w.first && w.node == node {
		return
	}
	c.drop(a)
	if node != "" {
		c.wait(now, a, node)
		c.waits[a].first = true
	}
}

// Await says that an address in service, which no node claims, is a node's to claim.
func (c *Holdoff) Await(now time.Time, a netip.Addr, node string) {
	if w := c.waits[a]; w == nil || !w.first && w.node != node && !slices.Contains(w.vain, node) {
		c.wait(now, a, node)
	}
}

func (c *Holdoff) wait(now time.Time, a netip.Addr, node string) {
	if c.waits == nil {
		c.waits, c.hosts = map[netip.Addr]*wait{}, map[string]*host{}
	}
	w := c.waits[a]
	if w == nil {
		w = &wait{}
		c.waits[a] = w
	}
	c.release(w)
	w.node = node
	if c.hosts[node] == nil {
		c.hosts[node] = &host{until: now.Add(grace)}
	}
	c.hosts[node].addresses++
}

// release ends the waiting for a node.
func (c *Holdoff) release(w *wait) {
	if h := c.hosts[w.node]; h != nil {
		if h.addresses--; h.addresses == 0 {
			delete(c.hosts, w.node)
		}
	}
	w.node, w.first = "", false
}

// Claimed says that a node claims an address.
func (c *Holdoff) Claimed(now time.Time, a netip.Addr, by string) {
	if w, h := c.waits[a], c.hosts[by]; w != nil && h != nil && w.node == by {
		h.until = now.Add(grace)
	}
	c.drop(a)
}

// Forget drops what is known of addresses that are not in use any more.
func (c *Holdoff) Forget(inUse func(netip.Addr) bool) {
	for a := range c.waits {
		if !inUse(a) {
			c.drop(a)
		}
	}
}

func (c *Holdoff) drop(a netip.Addr) {
	if w := c.waits[a]; w != nil {
		c.release(w)
		delete(c.waits, a)
	}
}

// New yields the addresses that are left to the nodes where they are placed.
func (c *Holdoff) New(yield func(netip.Addr) bool) {
	for a, w := range c.waits {
		if w.first && !yield(a) {
			return
		}
	}
}

// Place completes a Place with whose turn it is.
func (c *Holdoff) Place(a netip.Addr, p Place) Place {
	if c == nil {
		return p
	}
	if w := c.waits[a]; w != nil {
		p.First, p.Last = w.first && w.node == p.Node, w.vain
	}
	return p
}

// Due returns when Expire has something to do; ok is false for never.
func (c *Holdoff) Due() (at time.Time, ok bool) {
	for _, h := range c.hosts {
		if !ok || h.until.Before(at) {
			at, ok = h.until, true
		}
	}
	return at, ok
}

// Expire gives up waiting for nodes that have claimed nothing for too long, and
// reports whether there were any.
func (c *Holdoff) Expire(now time.Time) (expired bool) {
	if at, ok := c.Due(); !ok || now.Before(at) {
		return false
	}
	late := map[string]bool{}
	for node, h := range c.hosts {
		late[node] = !now.Before(h.until)
	}
	for _, w := range c.waits {
		if late[w.node] {
			w.vain = append(slices.Clip(w.vain), w.node)
			c.release(w)
		}
	}
	return true
}
