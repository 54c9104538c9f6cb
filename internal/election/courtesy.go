package election

import (
	"net/netip"
	"time"
)

// grace is how long a node that claims nothing of what is left to it is waited
// for.
const grace = 2 * time.Second

// A Courtesy leaves new addresses to the nodes where they are placed, so that they
// begin there and need not be offered. It is about addresses that this speaker has
// seen come into being and that nobody has claimed since: no failover ever waits
// for it.
//
// Nor does it have to be the same everywhere. A speaker that knows of another place,
// or of none, may claim what others leave to somebody: that claim counts. And a node
// that seems well but does not take what is left to it, because its news are old,
// is not waited for any longer than grace. So two who know different places do not
// wait for each other for ever.
//
// The zero Courtesy leaves nothing. All of it belongs to one goroutine.
type Courtesy struct {
	left  map[netip.Addr]string
	hosts map[string]*host
}

// A host is a node to which addresses are left.
type host struct {
	addresses int
	// until is when it is waited for no longer: each claim of one of them renews it.
	until time.Time
	over  bool
}

// Leave says that an address is left to a node from now on.
func (c *Courtesy) Leave(now time.Time, a netip.Addr, node string) {
	if c.left[a] == node {
		return
	}
	c.Forget(a)
	if node == "" {
		return
	}
	if c.left == nil {
		c.left, c.hosts = map[netip.Addr]string{}, map[string]*host{}
	}
	h := c.hosts[node]
	if h == nil {
		h = &host{until: now.Add(grace)}
		c.hosts[node] = h
	}
	c.left[a] = node
	h.addresses++
}

// Claimed says that a node claims an address, which is not left to anybody any
// more.
func (c *Courtesy) Claimed(now time.Time, a netip.Addr, by string) {
	if h := c.hosts[c.left[a]]; h != nil && c.left[a] == by {
		h.until, h.over = now.Add(grace), false
	}
	c.Forget(a)
}

// Forget says that an address is not left to anybody any more.
func (c *Courtesy) Forget(a netip.Addr) {
	h := c.hosts[c.left[a]]
	if h == nil {
		return
	}
	if h.addresses--; h.addresses == 0 {
		delete(c.hosts, c.left[a])
	}
	delete(c.left, a)
}

// Turn returns when the node where an address is placed may claim it: first while
// it is left to it, last when it was waited for in vain.
func (c *Courtesy) Turn(a netip.Addr) Turn {
	if c == nil || len(c.left) == 0 {
		return Equal
	}
	switch h := c.hosts[c.left[a]]; {
	case h == nil:
		return Equal
	case h.over:
		return Last
	default:
		return First
	}
}

// Places yields what was left and has not been claimed, with its nodes.
func (c *Courtesy) Places(yield func(netip.Addr, string) bool) {
	for a, node := range c.left {
		if !yield(a, node) {
			return
		}
	}
}

// Due returns when Expire has something to do; ok is false for never.
func (c *Courtesy) Due() (at time.Time, ok bool) {
	for _, h := range c.hosts {
		if !h.over && (!ok || h.until.Before(at)) {
			at, ok = h.until, true
		}
	}
	return at, ok
}

// Expire gives up waiting for nodes that have claimed nothing for too long, and
// reports whether there were any.
func (c *Courtesy) Expire(now time.Time) (expired bool) {
	for _, h := range c.hosts {
		if !h.over && !now.Before(h.until) {
			h.over, expired = true, true
		}
	}
	return expired
}
