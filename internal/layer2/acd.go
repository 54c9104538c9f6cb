package layer2

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// The bounds of what is asked: docs/design/announcing.md.
const (
	// reprobe is how long after a foreign station was found the segment is asked again.
	reprobe = 30 * time.Second
	// retry is how long after a question that could not be asked it is tried
	// again, and retries is how often in a row it may fail: after that, silence
	// is taken for consent. A service is worth more than an answer that is not to
	// be had.
	retry   = time.Second
	retries = 3
	// probation is how long after its first claim an address is given up to a
	// foreign station that is heard with it: it was there before and was slow to answer.
	// It is RFC 5227's DEFEND_INTERVAL, within which a second conflict decides.
	probation = 10 * time.Second
	// batch bounds the addresses of an inquiry: what the default budget lets out
	// in about the time that asking for one takes.
	batch = 80
)

// ACD (RFC 5227) keeps addresses from being claimed for the first time until their
// segments were asked whether a foreign station uses them.
//
// An address is asked about only while no node is known to serve it: one that is
// or was in service is claimed at once, however its owner came to be. So no
// failover waits for it.
//
// It is driven: Want says which addresses are to be claimed, Next what to ask,
// Answer what came back. The zero value is ready for use.
type ACD struct {
	// served are the addresses in service, and until when on probation.
	served map[netip.Addr]time.Time
	cases  map[netip.Addr]*vet
	asking map[int]bool // interfaces on which an inquiry is under way
}

// A vet is an address that is to be claimed and is not yet.
type vet struct {
	address netip.Addr
	on      []int // where it is to be claimed
	free    []int // where no station uses it
	due     time.Time
	failed  int
	// found is who uses it; zero while that is not known.
	found Heard
}

// An Inquiry is to be put on one segment, about addresses of either family.
type Inquiry struct {
	Interface int
	Addresses []netip.Addr
}

// Serve takes note that a node has begun to answer for an address: it may be
// claimed at once. The zero time says that it was long ago.
func (v *ACD) Serve(a netip.Addr, since time.Time) {
	switch _, is := v.served[a]; {
	case is:
	case since.IsZero():
		v.serve(a, since)
	default:
		v.serve(a, since.Add(probation))
	}
}

func (v *ACD) serve(a netip.Addr, until time.Time) {
	if v.served == nil {
		v.served = map[netip.Addr]time.Time{}
	}
	v.served[a] = until
	delete(v.cases, a)
}

// Want says which addresses are to be claimed, all of them. Those that are not
// served are to be asked about.
func (v *ACD) Want(now time.Time, claims []Claim) {
	wanted := map[netip.Addr]bool{}
	for _, c := range claims {
		if _, is := v.served[c.Address]; is || len(c.Interfaces) == 0 {
			continue
		}
		wanted[c.Address] = true
		if known := v.cases[c.Address]; known != nil {
			known.on = c.Interfaces
			if known.found != (Heard{}) && !slices.Contains(c.Interfaces, known.found.Interface) {
				known.found, known.due = Heard{}, now // that segment is none of ours any more
			}
			v.close(now, known)
			continue
		}
		if v.cases == nil {
			v.cases = map[netip.Addr]*vet{}
		}
		v.cases[c.Address] = &vet{address: c.Address, on: c.Interfaces, due: now}
	}
	maps.DeleteFunc(v.cases, func(a netip.Addr, _ *vet) bool { return !wanted[a] })
}

// Next returns what to ask now, one inquiry at a time on each interface, and
// when to call it again, unless something happens before; the zero time says
// that nothing is due.
func (v *ACD) Next(now time.Time) (ask []Inquiry, wake time.Time) {
	var due []*vet
	for _, c := range v.cases {
		switch {
		case !c.due.After(now):
			due = append(due, c)
		case wake.IsZero() || c.due.Before(wake):
			wake = c.due
		}
	}
	slices.SortFunc(due, func(a, b *vet) int { return cmp.Or(a.due.Compare(b.due), a.address.Compare(b.address)) })
	on := map[int]int{} // interface: place in ask
	for _, c := range due {
		for _, i := range c.on {
			if v.asking[i] || slices.Contains(c.free, i) {
				continue
			}
			n, is := on[i]
			if !is {
				n = len(ask)
				on[i] = n
				ask = append(ask, Inquiry{Interface: i})
			}
			if len(ask[n].Addresses) < batch {
				ask[n].Addresses = append(ask[n].Addresses, c.address)
			}
		}
	}
	for _, q := range ask {
		if v.asking == nil {
			v.asking = map[int]bool{}
		}
		v.asking[q.Interface] = true
	}
	return ask, wake
}

// close ends a case once the address was found free wherever it is to be claimed.
func (v *ACD) close(now time.Time, c *vet) {
	if !slices.ContainsFunc(c.on, func(i int) bool { return !slices.Contains(c.free, i) }) {
		v.serve(c.address, now.Add(probation))
	}
}

// Answer ends an inquiry: found are the foreign stations that use addresses, at most
// one each; unclear are the addresses about which it brought nothing to rely on.
// Nobody uses the others.
func (v *ACD) Answer(now time.Time, q Inquiry, found []Heard, unclear []netip.Addr) {
	delete(v.asking, q.Interface)
	for _, a := range q.Addresses {
		c := v.cases[a]
		if c == nil {
			continue
		}
		by := slices.IndexFunc(found, func(h Heard) bool { return h.Address == a })
		switch {
		case by >= 0:
			c.withhold(now, found[by])
			continue
		case slices.Contains(unclear, a) && c.found != Heard{}:
			c.due = now.Add(reprobe)
			continue
		case slices.Contains(unclear, a) && c.failed+1 < retries:
			c.failed++
			c.due = now.Add(retry)
			continue
		}
		c.free = append(c.free, q.Interface)
		if c.found.Interface == q.Interface {
			c.found = Heard{}
		}
		v.close(now, c)
	}
}

func (c *vet) withhold(now time.Time, by Heard) {
	c.found, c.free, c.failed = by, nil, 0
	c.due = now.Add(reprobe)
}

// Yields is told of a foreign station's claim to an address that this node claims on
// these interfaces, and reports whether to give way: its own claim is so young
// that the foreign station was there first.
func (v *ACD) Yields(now time.Time, by Heard, on []int) (yield bool) {
	if !now.Before(v.served[by.Address]) {
		return false // long in service, or not at all
	}
	delete(v.served, by.Address)
	c := &vet{address: by.Address, on: on}
	c.withhold(now, by)
	if v.cases == nil {
		v.cases = map[netip.Addr]*vet{}
	}
	v.cases[by.Address] = c
	return true
}

// Cleared reports whether an address may be claimed, if it was wanted.
func (v *ACD) Cleared(a netip.Addr) bool { return v.cases[a] == nil }

// Served reports whether an address is or was in service.
func (v *ACD) Served(a netip.Addr) bool {
	_, is := v.served[a]
	return is
}

// Withheld returns the addresses that are not claimed though they are wanted, with
// the foreign stations that use them; those that are still being asked about have none.
func (v *ACD) Withheld() map[netip.Addr]Heard {
	if len(v.cases) == 0 {
		return nil
	}
	withheld := make(map[netip.Addr]Heard, len(v.cases))
	for a, c := range v.cases {
		withheld[a] = c.found
	}
	return withheld
}

// Forget drops what is known of addresses that are not in use any more.
func (v *ACD) Forget(inUse func(netip.Addr) bool) {
	maps.DeleteFunc(v.served, func(a netip.Addr, _ time.Time) bool { return !inUse(a) })
	maps.DeleteFunc(v.cases, func(a netip.Addr, _ *vet) bool { return !inUse(a) })
}
