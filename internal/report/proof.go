package report

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// A finding is what the segment says of an address of an owner, by all reports.
type finding struct {
	owner string
	kind  proof.Kind
	by    []proof.Station
	// mute is set where another node has asked and the owner was not among those that
	// answered.
	mute bool
}

func (f finding) equal(o finding) bool {
	return f.owner == o.owner && f.kind == o.kind && f.mute == o.mute && slices.Equal(f.by, o.by)
}

// gravity orders what reports say of one address and owner: what asks for something to
// be done goes first.
var gravity = map[proof.Kind]int{proof.Verified: 1, proof.Unanswered: 2, proof.AnsweredTwice: 3}

// hear takes in what a report says of the answers of its segment. Of two that say
// different things of one owner the graver counts, and what they heard is joined.
func (v *View) hear(r *Report) {
	for _, p := range r.Proofs {
		is := finding{owner: p.Owner, kind: p.Kind, by: p.By}
		is.mute = p.Kind == proof.AnsweredTwice && r.Node != p.Owner && !slices.ContainsFunc(p.By, func(s proof.Station) bool { return s.Node == p.Owner })
		all := v.proofs[p.Address]
		i := slices.IndexFunc(all, func(f finding) bool { return f.owner == p.Owner })
		switch {
		case i < 0:
			v.proofs[p.Address] = append(all, is)
			continue
		case gravity[all[i].kind] > gravity[is.kind]:
			continue
		case all[i].kind == is.kind:
			is.by = slices.Concat(all[i].by, is.by)
			slices.SortFunc(is.by, func(a, b proof.Station) int {
				return cmp.Or(cmp.Compare(a.Node, b.Node), slices.Compare(a.MAC[:], b.MAC[:]))
			})
			is.by = slices.CompactFunc(is.by, func(a, b proof.Station) bool { return a.MAC == b.MAC })
			is.mute = is.mute || all[i].mute
		}
		all[i] = is
	}
}

// Proven returns what the segment says of an address that a node answers for, by the
// reports that are believed, and in words what is wrong with it and what to do.
func (v *View) Proven(a netip.Addr, owner string) (kind proof.Kind, fault string) {
	for _, f := range v.proofs[a] {
		if f.owner == owner {
			return f.kind, f.text(a)
		}
	}
	return proof.Unknown, ""
}

// proven is what is known of whether the segment agrees that an owner answers for an
// address.
type proven struct {
	owner string
	kind  proof.Kind
	// alone is set where kind is Unknown and no other node is on the segment.
	alone bool
	// fault says in words what is wrong.
	fault string
}

// prove notes with each address that layer 2 announces what is known of it, and
// returns how long to wait before that may be something else. What was found out about
// an owner holds for as long as it is the owner, whichever node has asked: another node is to
// ask when that one goes.
func (t *Teller) prove(p *pass, decisions []announce.Decision, layer2 []held, bgp []route, before *told) (wait time.Duration) {
	for i := range decisions {
		d := &decisions[i]
		at := t.addresses[d.Address]
		if d.Owner == "" {
			continue
		}
		if at.proven.owner != d.Owner {
			at.proven, at.unwitnessed = proven{owner: d.Owner}, time.Time{}
		}
		for _, f := range p.view.proofs[d.Address] {
			if f.owner == d.Owner {
				at.proven = proven{owner: d.Owner, kind: f.kind, fault: f.text(d.Address)}
			}
		}
		if at.proven.kind == proof.Unknown {
			wait = sooner(wait, at.witness(p, d.Owner, d.Address))
		}
		layer2[i].proven = at.proven
	}
	if before.parts == nil {
		t.adopt(p, decisions, layer2, bgp, before.Condition)
	}
	return wait
}

// adopt takes over what another controller knew of addresses of which nothing is known.
// If all that it told is what it would tell today had it known more, nothing has
// happened to that.
func (t *Teller) adopt(p *pass, decisions []announce.Decision, layer2 []held, bgp []route, says Condition) {
	assumed := slices.Clone(layer2)
	var try func(i int) bool
	try = func(i int) bool {
		if i == len(assumed) {
			is := p.compose(decisions, assumed, bgp)
			return Condition{is.announced, is.word(), is.text(decisions)} == says
		}
		h := &assumed[i]
		if h.owner == "" || h.proven.kind != proof.Unknown || i >= adoptMost {
			return try(i + 1)
		}
		for _, h.proven = range [...]proven{{owner: h.owner}, {owner: h.owner, kind: proof.Verified}, {owner: h.owner, alone: true}} {
			if try(i + 1) {
				return true
			}
		}
		h.proven = layer2[i].proven
		return false
	}
	if !try(0) {
		return
	}
	for i, d := range decisions {
		at := t.addresses[d.Address]
		if at.proven = assumed[i].proven; at.proven.alone {
			at.unwitnessed = p.now.Add(-recounting)
		}
	}
	copy(layer2, assumed)
}

// adoptMost bounds the addresses of a Service of which adopt tries what was known of
// them: a Service has one of each family.
const adoptMost = 2

// witness notes whether there is a node that asks for an address of an owner. While
// speakers start there often is none for a moment, which is nothing to tell.
func (at *place) witness(p *pass, owner string, a netip.Addr) (wait time.Duration) {
	switch {
	case p.witness(owner, a) != "":
		at.unwitnessed, at.proven.alone = time.Time{}, false
		return 0
	case at.unwitnessed.IsZero():
		at.unwitnessed = p.now
	}
	if len(p.index.Nodes()) > 1 {
		wait = max(at.unwitnessed.Add(recounting).Sub(p.now), 0)
	}
	at.proven.alone = wait == 0
	return wait
}

// A stand is where an owner answers.
type stand struct {
	owner string
	on    *lb.Interface
}

// witness returns the node that asks for an address of an owner; empty for none.
func (of *pass) witness(owner string, a netip.Addr) string {
	on, ok := of.reach.Interface(owner, a)
	if !ok {
		return ""
	}
	node, known := of.witnesses[stand{owner, on}]
	if !known {
		node = proof.Witness(of.view.members, owner, *on)
		of.witnesses[stand{owner, on}] = node
	}
	return node
}

// verified reports whether all that is announced by layer 2 is verified, and everything
// is announced by layer 2.
func (p parts) verified() bool {
	return len(p.layer2) > 0 && !slices.ContainsFunc(p.layer2, func(h held) bool { return h.owner == "" || h.proven.kind != proof.Verified })
}

// expects reports whether a result is still to come.
func (p parts) expects() bool {
	return p.announced && slices.ContainsFunc(p.layer2, func(h held) bool {
		return h.owner != "" && h.proven.kind == proof.Unknown && !h.proven.alone
	})
}

// counts reports whether two differ in nothing but who might ask, if anybody.
func (h held) counts(o held) bool {
	if h.proven.kind == proof.Unknown && o.proven.kind == proof.Unknown {
		h.proven.alone = o.proven.alone
	}
	return h == o
}

func (p proven) text() string {
	switch {
	case p.fault != "":
		return " (" + p.fault + ")"
	case p.kind == proof.Unknown && p.alone:
		return " (not verified: no other node is on its segment)"
	default:
		return ""
	}
}

// namedMost is how many of those that answer are named in a sentence
// (docs/design/proof.md).
const namedMost = 3

// Fault says in words what is wrong with the answers for an address of an owner, and
// what to do; empty where nothing is. Mute is set where the owner was not among those
// that another node heard.
func Fault(a netip.Addr, owner string, kind proof.Kind, by []proof.Station, mute bool) string {
	return finding{owner: owner, kind: kind, by: by, mute: mute}.text(a)
}

// text says in words what is wrong, and what to do.
func (f finding) text(a netip.Addr) string {
	if f.kind == proof.Verified {
		return ""
	}
	if f.kind == proof.Unanswered {
		return "no station answers for it on the segment: see whether a switch filters ARP or neighbor discovery by address"
	}
	kinds := map[proof.Voice][]string{}
	own := 0
	for _, s := range f.by {
		switch {
		case s.Node == f.owner:
			own++
		case s.Node == "":
			kinds[s.Voice] = append(kinds[s.Voice], s.MAC.String())
		default:
			kinds[s.Voice] = append(kinds[s.Voice], fmt.Sprintf("%s (%v)", s.Node, s.MAC))
		}
	}
	var out []string
	say := func(voice proof.Voice, one, many, advice string) {
		if who := kinds[voice]; len(who) == 1 {
			out = append(out, one+who[0]+" answers for it, too: "+advice)
		} else if len(who) > 1 {
			out = append(out, many+list(who)+" answer for it, too: "+advice)
		}
	}
	leftover := "strictARP is off (kube-proxy in IPVS mode), or the address was left behind on an interface there; remove it, or set net.ipv4.conf.all.arp_ignore=1"
	if a.Is6() {
		leftover = "the address was left behind on an interface there; remove it"
	}
	say(proof.Kernel, "the kernel of node ", "the kernels of nodes ", leftover)
	say(proof.Speaker, "the speaker of node ", "the speakers of nodes ", "see whether gossip passes between the nodes")
	say(proof.Silent, "node ", "nodes ", "gossip does not reach its speaker, or its kernel has the address; see port 7870 between the nodes, and the node's interfaces")
	say(proof.Stranger, "station ", "stations ", "it is no node's; look for it in the switch's address table")
	if own > 1 {
		out = append(out, fmt.Sprintf("the node answers by %d interfaces on the segment: name one of them in the L2Advertisement", own))
	}
	if f.mute {
		out = append(out, "the node's own answer is not heard")
	}
	return strings.Join(out, "; ")
}

// list names the first few.
func list(who []string) string {
	if len(who) <= namedMost {
		return strings.Join(who[:len(who)-1], ", ") + " and " + who[len(who)-1]
	}
	return fmt.Sprintf("%s and %d more", strings.Join(who[:namedMost], ", "), len(who)-namedMost)
}
