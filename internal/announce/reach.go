package announce

import (
	"net/netip"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Reach says by which interfaces members answer for addresses that they own, as they
// decide it themselves.
type Reach struct {
	d     *decider
	views map[seat]view
}

// A seat is a member's in a class.
type seat struct {
	class *class
	node  int
}

// NewReach returns a Reach.
func NewReach(ix *Index, members []election.Member) *Reach {
	d := &decider{ix: ix, members: make([]*election.Member, len(ix.nodes)), permits: map[permit]bool{}}
	for i := range members {
		if n, ok := ix.byNode[members[i].Node]; ok {
			d.members[n] = &members[i]
		}
	}
	return &Reach{d, map[seat]view{}}
}

// Interface returns an interface by which a member answers for an address: one with a
// subnet of the address if there is one, and whether there is any.
func (r *Reach) Interface(node string, a netip.Addr) (*lb.Interface, bool) {
	i, used := r.d.ix.byAddr[a]
	n, known := r.d.ix.byNode[node]
	if !used || !known || r.d.members[n] == nil {
		return nil, false
	}
	s := seat{r.d.ix.groups[i].class, n}
	v, seen := r.views[s]
	if !seen {
		v = r.d.view(s.class, n, r.d.members[n])
		v.doubled = segment(v.ports)
		r.views[s] = v
	}
	var one *lb.Interface
	for p := range v.answering(a) {
		if one == nil || p.OnLink(a) && !one.OnLink(a) {
			one = p.Interface
		}
	}
	return one, one != nil
}
