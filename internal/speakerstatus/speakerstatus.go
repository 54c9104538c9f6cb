// Package speakerstatus says what the SpeakerStatus of a node is, given what its
// speaker knows. It is pure.
//
// A SpeakerStatus is written whenever it differs from the one that is stored, by
// each node. So nothing is in it that changes while nothing happens: lists are
// sorted, durations are points in time, and the states through which a session
// passes with each attempt to connect are one state.
package speakerstatus

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/ranges"
	"github.com/belfrylb/belfry/internal/report"
)

// A Knowledge is what a speaker knows at one moment.
type Knowledge struct {
	Node, Version string
	// Now is the time, for what has just begun or ended.
	Now time.Time
	// State is how far the speaker is in its life, and Settings its flags.
	State    election.State
	Settings report.Settings
	// Detection is how the node's failure is detected.
	Detection lb.Detection
	// Index is the cluster's configuration as it bears on announcing.
	Index *announce.Index
	// Interfaces are the node's, Members all speakers, Claims what the node
	// answers for.
	Interfaces []lb.Interface
	Members    []election.Member
	// Answers are what the node answers for.
	Answers []core.Answer
	// Unheard are nodes whose speakers are not heard, those that matter first.
	Unheard []string
	// Blocked are nodes to which gossip is blocked though their speakers are there.
	Blocked []election.Blocked
	// Keys are the keys of gossip that it uses.
	Keys gossipkey.Use
	// Withheld are the addresses that are to be announced from here and are not:
	// which station uses them, or none while their segment is being asked. Conflicts are
	// foreign stations that use what is announced all the same.
	Withheld  map[netip.Addr]layer2.Heard
	Conflicts []report.Conflict
	// Proofs are what the segment says when it is asked.
	Proofs []proof.Result
	// Response is what came of the last request; nil: of none since the speaker started.
	Response *proof.Response
	// Routing is what the node is to do by BGP, and Sessions what became of it.
	Routing  bgp.Intent
	Sessions []bgp.SessionView
	// Aside are the Services that are left as they were, as decisions fail over them.
	Aside []lb.ServiceKey
	// Findings are about the objects that configure us, as this version sees them.
	Findings []config.Finding
}

// What fits into a SpeakerStatus, as its schema has it.
const (
	maxInterfaces          = 256
	maxSubnets             = 64
	maxSuspected           = 64
	maxBlocked             = 64
	maxUnheard             = report.MaxUnheard
	maxAnswers             = 64
	maxWithheld            = 256
	maxConflicts           = 64
	maxTransitions         = 64
	maxElements            = 16384
	maxMoved               = 64
	maxVerified            = 256
	maxFaults              = 64
	maxFaultElements       = 256
	maxAnsweredBy          = 16
	maxProbeAnswers        = 64
	maxInterfacesOfAddress = 32
	maxSessions            = 128
	maxNotApplied          = 64
	maxName                = 253
	maxText                = 512
)

// Compose returns the status that says what is known. Before is the status that
// it replaces: a session that still is not established has been so since the
// time that stands there.
func Compose(k Knowledge, before v1beta1.SpeakerStatusStatus) v1beta1.SpeakerStatusStatus {
	out := v1beta1.SpeakerStatusStatus{
		Version:    cut(k.Version, 128),
		Phase:      phases[k.State],
		Settings:   v1beta1.SpeakerSettings{LoadBalancerClass: k.Settings.Class, DrainTaint: k.Settings.DrainTaint, IgnoreExcludeLB: k.Settings.IgnoreExcludeLB, Namespace: k.Settings.Namespace},
		Detection:  k.Detection.String(),
		Interfaces: interfaces(k),
		Membership: membership(k),
		Layer2:     layer2Status(k, before.Layer2),
		BGP:        sessions(k, before.BGP.Sessions),
		NotApplied: notApplied(k),
		Conditions: conditions(k, before.Conditions),
		Probe:      before.Probe,
	}
	if k.Response != nil {
		out.Probe = probe(*k.Response)
	}
	if k.Index != nil {
		out.Configuration = k.Index.Configuration()
	}
	return out
}

// phases are the states of a speaker as it tells of its own.
var phases = map[election.State]v1beta1.SpeakerPhase{
	election.Joining: v1beta1.SpeakerJoining, election.Alive: v1beta1.SpeakerRunning,
	election.Leaving: v1beta1.SpeakerLeaving, election.Gone: v1beta1.SpeakerStopped,
}

// interfaces leaves out the loopback, and what connects nothing but Pods: an
// interface on which nothing may be announced and that is on no subnet.
func interfaces(k Knowledge) []v1beta1.InterfaceStatus {
	var out []v1beta1.InterfaceStatus
	spares := map[string]string{}
	if k.Index != nil {
		for _, s := range k.Index.Spares(k.Node, k.Interfaces) {
			spares[s.Name] = s.String()
		}
	}
	for _, i := range k.Interfaces {
		permitted := k.Index != nil && k.Index.AdvertisesOn(k.Node, i.Name)
		subnets, segment := subnetsOf(i)
		if i.Loopback || !permitted && !segment {
			continue
		}
		s := v1beta1.InterfaceStatus{Name: i.Name, Carrier: i.Carrier, Subnets: subnets}
		if i.MAC != (lb.MAC{}) {
			s.MAC = i.MAC.String()
		}
		switch fault := i.Fault(); {
		case fault != lb.InterfaceOK:
			s.Reason = fault.String()
		case !permitted:
			s.Reason = "no L2Advertisement selects it"
		case spares[i.Name] != "":
			s.Reason = spares[i.Name]
		default:
			s.Usable = true
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b v1beta1.InterfaceStatus) int { return cmp.Compare(a.Name, b.Name) })
	out = slices.CompactFunc(out, func(a, b v1beta1.InterfaceStatus) bool { return a.Name == b.Name })
	if len(out) > maxInterfaces {
		// Those that matter more stay.
		slices.SortStableFunc(out, func(a, b v1beta1.InterfaceStatus) int {
			return cmp.Compare(rank(a), rank(b))
		})
		out = out[:maxInterfaces]
		slices.SortFunc(out, func(a, b v1beta1.InterfaceStatus) int { return cmp.Compare(a.Name, b.Name) })
	}
	return out
}

func rank(i v1beta1.InterfaceStatus) int {
	if i.Usable {
		return 0
	}
	return 1
}

// subnetsOf returns the subnets of an interface, link-local ones left out, and
// whether there is a neighbor in one of them.
func subnetsOf(i lb.Interface) (subnets []string, segment bool) {
	var prefixes []netip.Prefix
	for _, p := range i.Addresses {
		if !p.Addr().IsLinkLocalUnicast() {
			prefixes = append(prefixes, p.Masked())
			segment = segment || !p.IsSingleIP()
		}
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	for _, p := range first(slices.Compact(prefixes), maxSubnets) {
		subnets = append(subnets, p.String())
	}
	return subnets, segment
}

func membership(k Knowledge) v1beta1.MembershipStatus {
	out := v1beta1.MembershipStatus{Keys: keysOf(k.Keys)}
	for _, m := range k.Members {
		switch m.State {
		case election.Alive:
			out.Alive++
		case election.Suspected, election.Stalled, election.Cut:
			out.Suspected = append(out.Suspected, m.Node)
		}
	}
	slices.Sort(out.Suspected)
	out.Suspected = first(out.Suspected, maxSuspected)
	out.Unheard = slices.Sorted(slices.Values(first(k.Unheard, maxUnheard)))
	for _, b := range first(k.Blocked, maxBlocked) {
		out.Blocked = append(out.Blocked, v1beta1.BlockedPeer{Node: b.Node, Protocols: b.Protocols.Names()})
	}
	return out
}

func keysOf(u gossipkey.Use) *v1beta1.GossipKeys {
	if u.Sends == "" {
		return nil
	}
	out := &v1beta1.GossipKeys{Sends: string(u.Sends), SecretVersion: cut(u.Seen, 64)}
	for _, id := range u.Accepts {
		out.Accepts = append(out.Accepts, string(id))
	}
	return out
}

// conditions says whether gossip is blocked. A speaker that has not learned who is there,
// or has left, does not know.
func conditions(k Knowledge, before []metav1.Condition) []metav1.Condition {
	if k.State != election.Alive && k.State != election.Leaving {
		return nil
	}
	c := metav1.Condition{
		Type: v1beta1.ConditionGossipBlocked, Status: metav1.ConditionFalse, Reason: v1beta1.ReasonNotBlocked,
		Message:            "gossip reaches all whose speakers are known to be there",
		LastTransitionTime: metav1.NewTime(k.Now.Truncate(time.Second)),
	}
	if len(k.Blocked) > 0 {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1beta1.ReasonPortBlocked, election.Describe(k.Blocked)
	}
	for _, was := range before {
		if was.Type == c.Type && was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
	}
	return []metav1.Condition{c}
}

func layer2Status(k Knowledge, before v1beta1.Layer2Status) v1beta1.Layer2Status {
	out := v1beta1.Layer2Status{Answers: answers(k.Answers, k.Interfaces), Transitions: transitions(k.Answers)}
	out.Verified, out.Faults = proofs(k.Proofs)
	addresses := map[netip.Addr]bool{}
	for _, c := range k.Answers {
		addresses[c.Address] = true
	}
	out.Total = count(len(addresses))
	var probing []netip.Addr
	for _, a := range slices.SortedFunc(maps.Keys(k.Withheld), netip.Addr.Compare) {
		switch by := k.Withheld[a]; {
		case by == layer2.Heard{}:
			probing = append(probing, a)
		case len(out.Withheld) < maxWithheld:
			use := use(a, by)
			// It is heard again whenever it is asked, which is no news.
			if i := slices.IndexFunc(before.Withheld, func(b v1beta1.AddressUse) bool { return b.Address == use.Address && b.MAC == use.MAC }); i >= 0 {
				use = before.Withheld[i]
			}
			out.Withheld = append(out.Withheld, use)
		}
	}
	out.Probing = first(ranges.Format(probing), maxElements)
	for _, c := range last(k.Conflicts, maxConflicts) {
		out.Conflicts = append(out.Conflicts, v1beta1.AddressConflict{
			Address: c.Address.String(), MAC: c.MAC.String(), Node: c.Node, Heard: c.Heard, Since: new(metav1.NewMicroTime(c.At.Truncate(time.Microsecond))),
		})
	}
	return out
}

func use(a netip.Addr, by layer2.Heard) v1beta1.AddressUse {
	return v1beta1.AddressUse{Address: a.String(), MAC: by.MAC.String(), Heard: by.Kind.String(), Since: new(metav1.NewMicroTime(by.At.Truncate(time.Microsecond)))}
}

// transitions says how the node came by what it answers for: what came at once, for
// the same reason and from the same node, is one.
func transitions(answers []core.Answer) []v1beta1.Layer2Transition {
	type origin struct {
		since time.Time
		cause core.Cause
		from  string
	}
	by := map[origin][]netip.Addr{}
	for _, a := range answers {
		o := origin{a.Since.Round(0), a.Cause, a.From}
		by[o] = append(by[o], a.Address)
	}
	order := slices.SortedFunc(maps.Keys(by), func(a, b origin) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.cause, b.cause), cmp.Compare(a.from, b.from))
	})
	var out []v1beta1.Layer2Transition
	for _, o := range last(order, maxTransitions) {
		addresses := by[o]
		slices.SortFunc(addresses, netip.Addr.Compare)
		addresses = slices.Compact(addresses)
		out = append(out, v1beta1.Layer2Transition{
			Since: metav1.NewMicroTime(o.since.Truncate(time.Microsecond)), Cause: v1beta1.TransitionCause(o.cause.String()), From: o.from, Count: count(len(addresses)),
			Addresses: first(ranges.Format(addresses), maxMoved),
		})
	}
	return out
}

// answers lists what is answered for by the interfaces that they are answered on.
func answers(claims []core.Answer, interfaces []lb.Interface) []v1beta1.Layer2Answers {
	names := make(map[int]string, len(interfaces))
	for _, i := range interfaces {
		names[i.Index] = i.Name
	}
	on := map[string][]string{}
	by := map[string][]netip.Addr{}
	for _, c := range claims {
		var list []string
		for _, index := range c.Interfaces {
			if name, known := names[index]; known {
				list = append(list, name)
			}
		}
		slices.Sort(list)
		list = first(slices.Compact(list), maxInterfacesOfAddress)
		key := strings.Join(list, " ")
		if _, known := on[key]; !known && len(on) >= maxAnswers-1 {
			key, list = "", nil // that many say nothing to anybody
		}
		on[key] = list
		by[key] = append(by[key], c.Address)
	}
	var out []v1beta1.Layer2Answers
	left := maxElements
	for _, key := range slices.Sorted(maps.Keys(on)) {
		addresses := by[key]
		slices.SortFunc(addresses, netip.Addr.Compare)
		list := first(ranges.Format(slices.Compact(addresses)), left)
		left -= len(list)
		if len(list) > 0 {
			out = append(out, v1beta1.Layer2Answers{Interfaces: on[key], Addresses: list})
		}
	}
	return out
}

func sessions(k Knowledge, before []v1beta1.SessionStatus) v1beta1.BGPStatus {
	out := v1beta1.BGPStatus{Total: count(len(k.Routing.Sessions))}
	for _, wanted := range k.Routing.Sessions {
		v := bgp.SessionView{Peer: wanted.Peer.Name}
		if i := slices.IndexFunc(k.Sessions, func(v bgp.SessionView) bool { return v.Peer == wanted.Peer.Name }); i >= 0 {
			v = k.Sessions[i]
		}
		s := session(v, wanted.Peer)
		if i := slices.IndexFunc(before, func(b v1beta1.SessionStatus) bool { return b.Peer == s.Peer }); i >= 0 && s.State != v1beta1.SessionEstablished && s.State == before[i].State {
			s.Since = before[i].Since
		}
		if s.State == v1beta1.SessionEstablished {
			out.Up++
		}
		out.Sessions = append(out.Sessions, s)
	}
	slices.SortFunc(out.Sessions, func(a, b v1beta1.SessionStatus) int { return cmp.Compare(a.Peer, b.Peer) })
	out.Sessions = first(out.Sessions, maxSessions)
	return out
}

func session(v bgp.SessionView, peer lb.BGPPeer) v1beta1.SessionStatus {
	s := v1beta1.SessionStatus{Peer: v.Peer, State: v1beta1.SessionConnect, Since: at(v.Since)}
	switch {
	case peer.Address.IsValid():
		s.Address = peer.Address.String()
	case v.Remote.IsValid():
		s.Address = v.Remote.Addr().String()
	}
	if v.Fault != nil {
		s.LastError, s.Cause = cut(v.Fault.Text, maxText), v.Fault.Cause.String()
	}
	switch {
	case v.State == bgp.Established:
		s.State = v1beta1.SessionEstablished
		s.PrefixesSent = count(v.Sent)
		s.NotSent = notSent(v)
	case v.Fault == nil:
	case v.Fault.Cause == bgp.AdminShutdown:
		s.State, s.LastError, s.Cause = v1beta1.SessionShutdown, "", ""
	case v.Fault.Cause == bgp.PasswordMissing, v.Fault.Cause == bgp.NoNeighbor:
		s.State = v1beta1.SessionIdle
	}
	if v.State == bgp.Established && v.Negotiated != nil {
		s.Capabilities = capabilities(*v.Negotiated, peer)
		for _, f := range bgp.Carrying(v) {
			s.Families = append(s.Families, inAPI(f))
		}
	}
	switch b := v1beta1.BFDState(v.BFD); b {
	case v1beta1.BFDAdminDown, v1beta1.BFDDown, v1beta1.BFDInit, v1beta1.BFDUp:
		s.BFD = b
		if b != v1beta1.BFDUp {
			s.BFDError = cut(v.BFDFault, maxText)
		}
	}
	return s
}

// notSent lists what the router is not told, IPv4 first.
func notSent(v bgp.SessionView) (out []v1beta1.NotSent) {
	for _, f := range families {
		n, message := v.Unsendable[f], v.NextHops[f].Sentence(f)
		if n == 0 {
			continue
		}
		if message == "" {
			message = "what they say is longer than a message of this session"
		}
		out = append(out, v1beta1.NotSent{Family: inAPI(f), Prefixes: count(n), Message: cut(message, maxText)})
	}
	return out
}

// capabilities names what both ends can do.
func capabilities(n bgp.Negotiated, peer lb.BGPPeer) []string {
	var out []string
	for _, f := range n.Families {
		out = append(out, f.String())
	}
	for _, c := range []struct {
		name string
		both bool
	}{
		{"extended-next-hop", n.ExtendedNextHop},
		{"four-octet-as", n.FourOctetAS},
		{"graceful-restart", peer.GracefulRestart != nil && n.Capabilities.GracefulRestart != nil},
		{"long-lived-graceful-restart", peer.GracefulRestart != nil && peer.GracefulRestart.LongLived > 0 && len(n.Capabilities.LongLived) > 0},
		{"route-refresh", n.Capabilities.RouteRefresh},
	} {
		if c.both {
			out = append(out, c.name)
		}
	}
	return out
}

// setAside is why a Service is not acted on as it is.
const setAside v1beta1.Reason = "SetAside"

// notApplied lists the objects that are not acted on as written, as this node's
// version sees it, and those that this node in particular cannot act on.
func notApplied(k Knowledge) []v1beta1.NotApplied {
	var out []v1beta1.NotApplied
	for _, v := range k.Findings {
		if !v.Accepted() {
			out = append(out, v1beta1.NotApplied{Kind: v.Kind, Name: v.Name, Reason: v.Reason(), Message: cut(v.Message(), maxText)})
		}
	}
	if k.Index != nil {
		for _, name := range k.Index.Stranded(k.Node, k.Interfaces) {
			out = append(out, v1beta1.NotApplied{
				Kind: "L2Advertisement", Name: name, Reason: v1beta1.Reason(eligibility.NoUsableInterface.String()),
				Message: "None of this node's interfaces that it permits can announce.",
			})
		}
	}
	for _, c := range k.Routing.Conflicts {
		out = append(out, v1beta1.NotApplied{
			Kind: "BGPAdvertisement", Name: c.Advertisement, Reason: v1beta1.ReasonConflict, Message: cut(c.String(), maxText),
		})
	}
	for _, key := range k.Aside {
		out = append(out, v1beta1.NotApplied{
			Kind: "Service", Name: cut(key.String(), maxName), Reason: setAside,
			Message: "The speaker fails over this Service, which is an error of the speaker. It is left as it was until it changes; please report what the log says.",
		})
	}
	for _, r := range k.Routing.Rivals {
		out = append(out, v1beta1.NotApplied{
			Kind: "BGPPeer", Name: r.Peer, Reason: v1beta1.ReasonConflict,
			Message: cut(fmt.Sprintf("The older BGPPeer %s is for the same router; this one holds no session from this node.", r.Older), maxText),
		})
	}
	slices.SortFunc(out, func(a, b v1beta1.NotApplied) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
	return first(out, maxNotApplied)
}

// at returns a time as the API server stores it, in whole seconds.
func at(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return new(metav1.NewTime(t.Truncate(time.Second)))
}

func count(n int) int32 { return int32(min(n, math.MaxInt32)) }

// first returns the first n elements, or all.
func first[T any](list []T, n int) []T { return list[:min(len(list), n)] }

// last returns the last n elements, or all.
func last[T any](list []T, n int) []T { return list[max(0, len(list)-n):] }

// cut shortens a text to at most n bytes, between characters.
func cut(text string, n int) string {
	const mark = "..."
	if len(text) <= n {
		return strings.ToValidUTF8(text, "")
	}
	return strings.ToValidUTF8(text[:n-len(mark)], "") + mark
}
