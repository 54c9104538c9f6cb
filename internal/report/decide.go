package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// Where these are from: docs/design/one-voice.md.
const (
	// settled is how long an address must have been without an owner before that is
	// told, and lagging the same while speakers act on another configuration than
	// we: what they do is about to change.
	settled = 3 * time.Second
	lagging = 10 * time.Second
	// doubt is how long two nodes must both have said that they answer for an
	// address, as while it is handed over, until the one is told instead of the
	// other.
	doubt = 300 * time.Millisecond
	// recounting is how long the number of nodes that advertise a Service must have
	// been another one until its condition says so. Speakers that restart one after
	// the other change it for a moment each, for every Service.
	recounting = 15 * time.Second
	// patience is how long an address must have been announced by another node than
	// that where it is recorded until the record follows, when it does not follow
	// from a failover: the node is to take it yet.
	patience = 30 * time.Second
)

// A Condition is what a Service is told of its announcing. The zero Condition
// stands for none.
type Condition struct {
	Announced       bool
	Reason, Message string
}

// An EventKind is the reason of an Event, as Kubernetes calls it.
type EventKind string

// Events on Services.
const (
	Announcing        EventKind = "Announcing"
	AnnouncementMoved EventKind = "AnnouncementMoved"
	NotAnnounced      EventKind = "NotAnnounced"
	AddressConflict   EventKind = "AddressConflict"
	AnsweredTwice     EventKind = "AnsweredTwice"
	Unanswered        EventKind = "Unanswered"
)

// Warns reports whether the Event is one that a person should look into.
func (k EventKind) Warns() bool { return k != Announcing && k != AnnouncementMoved }

// An Event tells of a transition. The zero Event is none.
type Event struct {
	Kind    EventKind
	Message string
}

// A Telling is what a Service is told.
type Telling struct {
	Service lb.ServiceKey
	// Condition is the zero Condition as long as there is nothing to say: what the
	// Service says stays.
	Condition
	// Event is what has changed, to be told once that is written.
	Event Event
	// Expects is set while the result on an address is awaited that is announced: the
	// Condition will say so soon.
	Expects bool
	// Again is after how long to ask again, 0 for never.
	Again time.Duration
	// Record are addresses that are to be recorded on other nodes than they are.
	Record map[netip.Addr]string
	// Standings are those of the Service's addresses, ascending, told or not.
	Standings []AddressStanding
}

// A Teller decides what Services are told. It remembers what it has told them, and
// what it waits for. The zero Teller is ready for use.
type Teller struct {
	services  map[lb.ServiceKey]*told
	addresses map[netip.Addr]*place
}

// told is what a Service was told, and what it is not told yet.
type told struct {
	Condition
	// parts are what that is made of; nil for a condition that was found.
	parts *parts
	// silent is since when the Service should be told that it is not announced, and
	// recounted since when how many nodes advertise it differs from what it was told.
	silent    time.Time
	recounted time.Time
	recount   parts
}

// A place is where an address is and where it is recorded to be.
type place struct {
	// told is the owner that was told last.
	told string
	// owner is the present one, and recorded where the address is recorded; since
	// when, as far as was seen: the zero time says that it was so at first.
	owner, recorded           string
	ownerSince, recordedSince time.Time
	// contested is since when both the owner that was told and another answer, and
	// strays since when the record differs from the owner; zero: they do not.
	contested, strays time.Time
	// proven is what the segment said last of what the owner answers for, and
	// unwitnessed since when no other node is there that asks; zero: one is.
	proven      proven
	unwitnessed time.Time
}

// note takes note of where an address is recorded.
func (p *place) note(recorded string, now time.Time) {
	if p.recorded != recorded {
		p.recorded, p.recordedSince, p.strays = recorded, now, time.Time{}
	}
}

// parts are what a condition is made of.
type parts struct {
	announced bool
	reason    eligibility.Reason
	// layer2 and bgp have an element for each address; nil: not asked for.
	layer2 []held
	bgp    []route
	// refused is why configuration lets no node announce any of the addresses.
	refused string
	// unsure is set while it is not known whether an address is announced, and probing
	// while it is not known whether it can be.
	unsure, probing bool
	// fault is what is wrong with what the segment answers; Unknown for nothing.
	fault proof.Kind
}

// held is layer 2's part in announcing an address.
type held struct {
	owner  string
	reason eligibility.Reason
	by     use
	proven proven
}

// A route is BGP's part in announcing an address.
type route struct {
	// asked is set when the address is to be advertised by BGP at all.
	asked bool
	// nodes is how many advertise it, and one which, if it is one.
	nodes int
	one   string
	// reason says why none does, and waits of what routes wait in a session.
	reason eligibility.Reason
	waits  string
}

func (p parts) equal(o parts) bool {
	return p.announced == o.announced && p.reason == o.reason && p.refused == o.refused && slices.Equal(p.layer2, o.layer2) && slices.Equal(p.bgp, o.bgp)
}

// A Subject is a Service that holds addresses.
type Subject struct {
	Key       lb.ServiceKey
	Addresses []netip.Addr
	// Says is what the Service says at the moment.
	Says Condition
}

// Tell decides what Services are told, one Telling for each, given an index that
// has at least all who share their addresses, and where addresses are recorded to
// be. Whatever is returned counts as told.
func (t *Teller) Tell(ix *announce.Index, v *View, subjects []Subject, recorded func(netip.Addr) string, now time.Time) []Telling {
	if t.services == nil {
		t.services, t.addresses = map[lb.ServiceKey]*told{}, map[netip.Addr]*place{}
	}
	p := &pass{
		index: ix, view: v, intent: announce.Decide(ix, v.members, nil, ""),
		behind: v.behind(ix.Configuration()), unknown: slices.DeleteFunc(ix.Nodes(), func(n string) bool { return !v.Unknown(n) }),
		recorded: recorded, now: now, owners: map[netip.Addr]string{}, records: map[netip.Addr]string{},
		reach: announce.NewReach(ix, v.members), witnesses: map[stand]string{},
	}
	tellings := make([]Telling, 0, len(subjects))
	for _, s := range subjects {
		tellings = append(tellings, t.tell(p, s))
	}
	for a, owner := range p.owners {
		t.addresses[a].told = owner
	}
	for a, node := range p.records {
		t.addresses[a].note(node, now)
	}
	return tellings
}

// A pass is one call of Tell.
type pass struct {
	index  *announce.Index
	view   *View
	intent announce.Intent
	// behind is set while a speaker acts on another configuration than the index,
	// and unknown are the nodes of which it is not known what they do.
	behind   bool
	unknown  []string
	recorded func(netip.Addr) string
	now      time.Time
	reach    *announce.Reach
	// witnesses are the nodes that ask for what an owner answers for on an interface.
	witnesses map[stand]string
	// owners are those that were told, and records where addresses are to be recorded.
	// They count after the pass: other Services may share their addresses.
	owners, records map[netip.Addr]string
}

// Forget drops what is remembered of a Service.
func (t *Teller) Forget(key lb.ServiceKey) { delete(t.services, key) }

// Free drops what is remembered of an address that no Service holds any more.
func (t *Teller) Free(a netip.Addr) { delete(t.addresses, a) }

func (t *Teller) tell(p *pass, s Subject) Telling {
	telling := Telling{Service: s.Key}
	before := t.services[s.Key]
	if before == nil {
		before = &told{Condition: s.Says}
		t.services[s.Key] = before
	}
	var decisions []announce.Decision
	for _, a := range s.Addresses {
		if d, inUse := p.intent.Decision(a); inUse {
			decisions = append(decisions, d)
		}
	}
	if len(decisions) == 0 {
		return telling
	}
	slices.SortFunc(decisions, func(a, b announce.Decision) int { return a.Address.Compare(b.Address) })
	for i := range decisions {
		d := &decisions[i]
		doubtful := t.follow(p, d)
		to, early := t.record(p, d)
		telling.Again = sooner(telling.Again, sooner(doubtful, early))
		if to != "" {
			if telling.Record == nil {
				telling.Record = map[netip.Addr]string{}
			}
			telling.Record[d.Address], p.records[d.Address] = to, to
		}
	}

	layer2, bgp := p.protocols(decisions)
	telling.Again = sooner(telling.Again, t.prove(p, decisions, layer2, bgp, before))
	telling.Standings = p.standings(decisions, layer2, bgp)
	is := p.compose(decisions, layer2, bgp)
	want := Condition{is.announced, is.word(), is.text(decisions)}
	telling.Expects = is.expects()
	left := before.waits(is, want, p.behind, p.now)
	telling.Again = sooner(telling.Again, left)
	if left == 0 && !is.unsure && !(is.probing && !before.Announced) {
		if want != before.Condition {
			telling.Event = before.event(is, want, t.moves(p.view, decisions))
		}
		before.Condition, before.parts = want, &is
		for _, d := range decisions {
			p.owners[d.Address] = d.Owner
		}
	}
	if before.parts != nil {
		telling.Condition = before.Condition
	}
	return telling
}

// follow takes note of who owns an address, and makes the decision about it say so:
// whom the reports name, not whom an election would. It returns how long to wait
// before that may be another one.
func (t *Teller) follow(pass *pass, d *announce.Decision) (wait time.Duration) {
	v, recorded, now, elected := pass.view, pass.recorded(d.Address), pass.now, d.Owner
	d.Owner = v.owner(d.Address)
	p := t.addresses[d.Address]
	if p == nil {
		p = &place{owner: d.Owner, recorded: recorded}
		t.addresses[d.Address] = p
	}
	p.note(recorded, now)
	if both := d.Owner != p.told && p.told != "" && slices.Contains(v.claims[d.Address], p.told); !both {
		p.contested = time.Time{}
	} else {
		if p.contested.IsZero() {
			p.contested = now
		}
		if wait = p.contested.Add(doubt).Sub(now); wait > 0 {
			d.Owner = p.told
		} else {
			wait = 0
		}
	}
	if p.owner != d.Owner {
		p.owner, p.ownerSince = d.Owner, now
	}
	d.Placed = recorded
	switch {
	case d.Owner != "":
		d.Reason = eligibility.Owner
	case elected != "":
		d.Reason = eligibility.Unclaimed
	}
	return wait
}

// record returns where an address is to be recorded instead, empty for where it is,
// and how long to wait before that may be.
//
// The record follows a failover, so that the address stays where it is when the
// node that had it returns. It is not for us to override a record that is newer
// than the owner: the address is to go there. Where the record is as it was found at
// first, the owner is newer if the node that is recorded is not believed any more.
func (t *Teller) record(pass *pass, d *announce.Decision) (to string, wait time.Duration) {
	v, now := pass.view, pass.now
	p := t.addresses[d.Address]
	if d.Owner == "" || d.Owner == d.Placed || d.Failback != lb.FailbackNever {
		p.strays = time.Time{}
		return "", 0
	}
	origin, known := v.believed[d.Owner].origin(d.Address)
	newer := p.ownerSince.After(p.recordedSince)
	if p.recordedSince.IsZero() {
		newer = newer || !v.Believes(d.Placed)
	}
	switch {
	case d.Placed == "", known && origin.From == d.Placed && newer:
		return d.Owner, 0
	case p.strays.IsZero():
		p.strays = now
	}
	if wait = p.strays.Add(patience).Sub(now); wait > 0 {
		return "", wait
	}
	return d.Owner, 0
}

// moves says which addresses have another owner than was told, or, of those of
// which nothing was told yet, than they came from.
func (t *Teller) moves(v *View, decisions []announce.Decision) []string {
	var out []string
	for _, d := range decisions {
		p := t.addresses[d.Address]
		from := p.told
		if from == "" && p.ownerSince.IsZero() && d.Owner != "" {
			from = d.Placed
			if origin, known := v.believed[d.Owner].origin(d.Address); known {
				from = origin.From
			}
		}
		if from != "" && d.Owner != "" && from != d.Owner {
			out = append(out, fmt.Sprintf("%v from node %s to node %s", d.Address, from, d.Owner))
		}
	}
	return out
}

// waits returns how long to wait before a Service is told.
func (b *told) waits(is parts, want Condition, behind bool, now time.Time) time.Duration {
	if want == b.Condition || is.announced || is.refused != "" {
		b.silent = time.Time{}
	}
	if want == b.Condition || !is.announced || !b.Announced || !b.counts(is) {
		b.recounted = time.Time{}
	}
	switch {
	case want == b.Condition || is.refused != "" || is.fault != proof.Unknown:
		return 0
	case !is.announced:
		if b.silent.IsZero() {
			b.silent = now
		}
		after := settled
		if behind {
			after = lagging
		}
		return max(b.silent.Add(after).Sub(now), 0)
	case b.Announced && b.counts(is):
		if b.recounted.IsZero() || !b.recount.equal(is) {
			b.recounted, b.recount = now, is
		}
		return max(b.recounted.Add(recounting).Sub(now), 0)
	}
	return 0
}

// counts reports whether parts differ from those that were told in how many nodes
// advertise an address alone. Of what was told by another controller only the
// sentence is known: then what BGP alone announces may be that.
func (b *told) counts(is parts) bool {
	if b.parts == nil {
		return is.layer2 == nil
	}
	return slices.EqualFunc(b.parts.layer2, is.layer2, held.counts) && slices.EqualFunc(b.parts.bgp, is.bgp, func(a, b route) bool {
		return a.asked == b.asked && (a.nodes > 0) == (b.nodes > 0) && a.reason == b.reason
	})
}

// event tells how a Service came to its condition.
func (b *told) event(is parts, want Condition, moves []string) Event {
	switch {
	case is.reason == eligibility.AddressConflict:
		return Event{AddressConflict, want.Message}
	case is.fault != proof.Unknown && b.Reason == want.Reason:
		return Event{} // in other words
	case is.fault != proof.Unknown:
		return Event{EventKind(want.Reason), want.Message}
	case !is.announced && b.Reason == want.Reason && !b.Announced:
		return Event{} // in other words
	case !is.announced && b.Condition == Condition{} && is.reason == eligibility.NoEndpoint:
		return Event{} // Services are commonly there before their endpoints are
	case !is.announced:
		return Event{NotAnnounced, want.Message}
	case len(moves) > 0:
		return Event{AnnouncementMoved, "moved " + strings.Join(moves, ", ")}
	case b.Announced:
		return Event{}
	default:
		return Event{Announcing, want.Message}
	}
}

// protocols returns the part of each protocol in announcing addresses.
func (of *pass) protocols(decisions []announce.Decision) (layer2 []held, bgp []route) {
	for _, d := range decisions {
		h := held{owner: d.Owner, reason: d.Reason}
		if by, is := of.view.withheld[d.Address]; is && d.Owner == "" {
			h.by, h.reason = by, eligibility.AddressConflict
		}
		layer2, bgp = append(layer2, h), append(bgp, routeOf(of.index, of.view, d.Address))
	}
	return layer2, bgp
}

// compose says what is decided about the addresses of a Service. An address is
// announced when one protocol does, unless a foreign station uses it.
func (of *pass) compose(decisions []announce.Decision, layer2 []held, bgp []route) parts {
	p := parts{announced: true, reason: eligibility.Owner}
	if p.refuse(of.index, decisions) {
		return p
	}
	p.layer2, p.bgp = layer2, bgp
	routed := false
	for i, d := range decisions {
		h, r := layer2[i], bgp[i]
		routed = routed || r.asked
		if h.owner == "" && r.nodes == 0 && h.reason != eligibility.AddressConflict {
			p.probing = p.probing || of.view.probing[d.Address]
			p.unsure = p.unsure || of.unsure(d.Address, r.asked)
		}
		switch {
		case h.reason == eligibility.AddressConflict:
			p.announced, p.reason = false, eligibility.AddressConflict
		case h.proven.kind == proof.AnsweredTwice, h.proven.kind == proof.Unanswered && r.nodes == 0:
			p.announced, p.fault = false, h.proven.kind
		case h.owner != "" || r.nodes > 0 || !p.announced:
		case h.reason == eligibility.NoAdvertisement && r.asked:
			p.announced, p.reason = false, r.reason
		default:
			p.announced, p.reason = false, h.reason
		}
	}
	if !routed {
		p.bgp = nil
	} else if !slices.ContainsFunc(p.layer2, func(h held) bool { return h.reason != eligibility.NoAdvertisement }) {
		p.layer2 = nil
	}
	return p
}

// unsure reports whether a node may announce an address of which it is not known
// what it does.
func (of *pass) unsure(a netip.Addr, routed bool) bool {
	if len(of.unknown) == 0 {
		return false
	}
	return slices.ContainsFunc(of.index.Candidates(a), func(n announce.NodeReason) bool {
		return (n.Reason == eligibility.Eligible || routed) && slices.Contains(of.unknown, n.Node)
	})
}

// refuse notes why configuration lets no node announce any of the addresses, if so.
func (p *parts) refuse(ix *announce.Index, decisions []announce.Decision) bool {
	var (
		reason    eligibility.Reason
		sentences []string
	)
	for _, d := range decisions {
		r := ix.Refusal(d.Address)
		if r.Reason == eligibility.Eligible {
			return false
		}
		reason = max(reason, r.Reason)
		if s := r.Sentence(); !slices.Contains(sentences, s) {
			sentences = append(sentences, s)
		}
	}
	*p = parts{reason: reason, refused: strings.Join(sentences, "; ")}
	return true
}

func routeOf(ix *announce.Index, v *View, a netip.Addr) route {
	refusal, asked := ix.Routing(a)
	switch {
	case !asked:
		return route{}
	case refusal.Reason != eligibility.Eligible:
		return route{asked: true, reason: refusal.Reason}
	}
	nodes := ix.Advertisers(a, v.established)
	r := route{asked: true, nodes: len(nodes), reason: eligibility.NoSession}
	switch len(nodes) {
	case 0:
		r.waits = v.waiting(ix, a)
	case 1:
		r.one = nodes[0]
	}
	return r
}

// word is the reason of the condition.
func (p parts) word() string {
	switch {
	case p.reason == eligibility.AddressConflict:
		return p.reason.String()
	case p.fault != proof.Unknown:
		return p.fault.String()
	case !p.announced:
		return p.reason.String()
	case p.verified():
		return proof.Verified.String()
	default:
		return "Announced"
	}
}

// text says it in a sentence.
func (p parts) text(decisions []announce.Decision) string {
	if p.refused != "" {
		return p.refused
	}
	var texts []string
	if p.layer2 != nil {
		texts = append(texts, "announced by layer 2"+each(decisions, p.layer2, held.text, func(h held) bool { return h.owner != "" }))
	}
	if p.bgp != nil {
		texts = append(texts, "advertised by BGP"+each(decisions, p.bgp, route.text, func(r route) bool { return r.nodes > 0 }))
	}
	return strings.Join(texts, "; ")
}

// each says of each address where it is, or once of all that are well and alike.
func each[T comparable](decisions []announce.Decision, parts []T, text func(T) string, well func(T) bool) string {
	if first := parts[0]; well(first) && !slices.ContainsFunc(parts, func(p T) bool { return text(p) != text(first) }) {
		return text(first)
	}
	var out []string
	for i, p := range parts {
		if t := text(p); t != "" {
			out = append(out, decisions[i].Address.String()+t)
		}
	}
	return ": " + strings.Join(out, ", ")
}

func (h held) text() string {
	switch {
	case h.reason == eligibility.AddressConflict:
		return fmt.Sprintf(" from no node (%v: station %v uses it on the segment of node %s)", h.reason, h.by.mac, h.by.node)
	case h.owner == "":
		return fmt.Sprintf(" from no node (%v)", h.reason)
	default:
		return " from node " + h.owner + h.proven.text()
	}
}

func (r route) text() string {
	switch {
	case !r.asked:
		return ""
	case r.waits != "":
		return fmt.Sprintf(" from no node (%v: %s)", r.reason, r.waits)
	case r.nodes == 0:
		return fmt.Sprintf(" from no node (%v)", r.reason)
	case r.nodes == 1:
		return " from node " + r.one
	default:
		return fmt.Sprintf(" from %d nodes", r.nodes)
	}
}

// sooner returns the shorter of two times to wait, 0 being for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
