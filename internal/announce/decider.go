package announce

import (
	"maps"
	"slices"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Decider decides again and again, each time as [Decide] would, and looks only at the
// addresses whose decision may be another one.
//
// In a cluster at rest each address has one claimant that owns it, and nothing but that
// node, the one where the address is placed and the claims to it bear on the decision
// ([decider.undisputed]). Such an address is looked at when one of those changes. All others
// are looked at each time.
//
// The zero Decider is ready for use.
type Decider struct {
	self string
	d    *decider // nil: nothing to go on from
	// heard are the members of the last decision by node index; those that are none of a
	// node of the Index count for nothing.
	heard  []*election.Member
	intent Intent
	open   []int   // the groups that are looked at each time, ascending
	placed [][]int // by node index: the groups that are placed there, ascending
}

// Decide decides as [Decide] does. The members must not be changed later.
func (x *Decider) Decide(ix *Index, members []election.Member, turns *election.Holdoff, self string) Intent {
	d := x.d
	x.d = nil // a decision that panics leaves nothing to go on from
	if d == nil || d.ix != ix || x.self != self {
		d = x.begin(ix, members, turns, self)
	} else {
		d.turns = turns
		x.review(d, members)
	}
	x.d = d
	return x.intent
}

// begin decides from scratch.
func (x *Decider) begin(ix *Index, members []election.Member, turns *election.Holdoff, self string) *decider {
	d := newDecider(ix, members, self)
	d.turns = turns
	x.self, x.heard = self, slices.Clone(d.members)
	x.intent, x.open = Intent{Decisions: make([]Decision, len(ix.groups))}, nil
	x.placed = make([][]int, len(ix.nodes))
	for i := range ix.groups {
		v, settled := d.decided(i)
		x.intent.Decisions[i] = v
		if !settled {
			x.open = append(x.open, i)
		}
		if v.Role != election.Backup {
			x.intent.Mine = append(x.intent.Mine, i)
		}
		if place := ix.groups[i].place; place >= 0 {
			x.placed[place] = append(x.placed[place], i)
		}
	}
	x.intent.Unclaimed = x.unclaimed(d)
	return d
}

// unclaimed are the groups that no node claims: they are among the open ones.
func (x *Decider) unclaimed(d *decider) (groups []int) {
	for _, i := range x.open {
		if d.claims[i].count == 0 {
			groups = append(groups, i)
		}
	}
	return groups
}

// review looks at what may have changed with the members.
func (x *Decider) review(d *decider, members []election.Member) {
	clear(d.members)
	for i := range members {
		if n, ok := d.ix.byNode[members[i].Node]; ok {
			d.members[n] = &members[i]
		}
	}
	todo := slices.Clone(x.open)
	for n, is := range d.members {
		was := x.heard[n]
		x.heard[n] = is
		todo = x.compare(d, n, was, is, todo)
	}
	x.open = x.open[:0]
	decisions, own := x.intent.Decisions, false // others have the slice
	slices.Sort(todo)
	todo = slices.Compact(todo)
	var mine []int
	for _, i := range x.intent.Mine {
		if _, looks := slices.BinarySearch(todo, i); !looks {
			mine = append(mine, i)
		}
	}
	for _, i := range todo {
		v, settled := d.decided(i)
		if !settled {
			x.open = append(x.open, i)
		}
		if v.Role != election.Backup {
			mine = append(mine, i)
		}
		if v.same(&decisions[i]) {
			continue
		}
		if !own {
			decisions, own = slices.Clone(decisions), true
		}
		decisions[i] = v
	}
	slices.Sort(mine)
	x.intent = Intent{Decisions: decisions, Mine: mine, Unclaimed: x.unclaimed(d)}
}

// compare takes in what node n was and is as a member, nil for none, and adds to the
// groups to look at.
func (x *Decider) compare(d *decider, n int, was, is *election.Member, todo []int) []int {
	if was == is {
		return todo
	}
	had, has := claimsOf(was), claimsOf(is)
	if !alike(was, is) {
		for class, views := range d.views {
			views[n] = d.viewOf(class, n)
		}
		todo = append(todo, x.placed[n]...)
		for a := range has { // of what it claims no more, see below
			if i, used := d.ix.byAddr[a]; used {
				todo = append(todo, i)
			}
		}
	}
	if was != nil && is != nil && was.Version == is.Version && is.Version != (election.Version{}) || maps.Equal(had, has) {
		return todo
	}
	for a := range had {
		if i, used := d.ix.byAddr[a]; used && has[a] != had[a] {
			d.claims[i].remove(n)
			todo = append(todo, i)
		}
	}
	for a, c := range has {
		if i, used := d.ix.byAddr[a]; used && had[a] != c {
			d.claims[i].add(claimant{n, c})
			todo = append(todo, i)
		}
	}
	return todo
}

func claimsOf(m *election.Member) election.Claims {
	if m == nil {
		return nil
	}
	return m.Claims
}

// alike reports whether a member can do as much as it could, claims left aside.
func alike(was, is *election.Member) bool {
	return was != nil && is != nil && was.State == is.State && slices.EqualFunc(was.Interfaces, is.Interfaces, lb.Interface.Equal)
}

// same reports whether two decisions on one address say the same.
func (v *Decision) same(o *Decision) bool {
	return v.Owner == o.Owner && v.Role == o.Role && v.Reason == o.Reason && v.Place == o.Place && v.Fit == o.Fit &&
		slices.Equal(v.Interfaces, o.Interfaces)
}
