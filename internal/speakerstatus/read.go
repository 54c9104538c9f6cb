package speakerstatus

import (
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
	"github.com/belfrylb/belfry/internal/report"
)

// Read returns what a SpeakerStatus says, but for its Order and when it was seen.
// What cannot be understood is left out. A speaker that does not tell its phase is an
// older one: it is Mute, and tells the families of a session among its capabilities.
func Read(o *v1beta1.SpeakerStatus) report.Report {
	s := &o.Status
	r := report.Report{
		Node:          o.Name,
		State:         election.Alive,
		Mute:          s.Phase == "",
		Configuration: s.Configuration,
		Settings: report.Settings{
			Class: s.Settings.LoadBalancerClass, DrainTaint: s.Settings.DrainTaint,
			IgnoreExcludeLB: s.Settings.IgnoreExcludeLB, Namespace: s.Settings.Namespace,
		},
		Unheard:  s.Membership.Unheard,
		Withheld: map[netip.Addr]lb.MAC{},
	}
	for _, b := range s.Membership.Blocked {
		r.Blocked = append(r.Blocked, election.Blocked{Node: b.Node, Protocols: election.ProtocolsOf(b.Protocols)})
	}
	if k := s.Membership.Keys; k != nil {
		r.Keys = gossipkey.Use{Sends: gossipkey.ID(k.Sends), Seen: k.SecretVersion}
		for _, id := range k.Accepts {
			r.Keys.Accepts = append(r.Keys.Accepts, gossipkey.ID(id))
		}
	}
	for _, c := range s.Conditions {
		if c.Type == v1beta1.ConditionGossipBlocked {
			r.BlockedSince = c.LastTransitionTime.Time
		}
	}
	for state, phase := range phases {
		if phase == s.Phase {
			r.State = state
		}
	}
	for _, i := range s.Interfaces {
		if i.Usable {
			r.Interfaces = append(r.Interfaces, interfaceOf(i))
		}
	}
	for _, a := range s.Layer2.Answers {
		r.Answers = append(r.Answers, addresses(a.Addresses)...)
	}
	slices.SortFunc(r.Answers, netip.Addr.Compare)
	r.Probing = addresses(s.Layer2.Probing)
	for _, w := range s.Layer2.Withheld {
		if a, mac, ok := readUse(w.Address, w.MAC); ok {
			r.Withheld[a] = mac
		}
	}
	for _, c := range s.Layer2.Conflicts {
		if a, mac, ok := readUse(c.Address, c.MAC); ok && c.Since != nil {
			r.Conflicts = append(r.Conflicts, report.Conflict{Address: a, MAC: mac, Node: c.Node, Heard: c.Heard, At: c.Since.Time})
		}
	}
	r.Proofs = readProofs(s.Layer2.Verified, s.Layer2.Faults)
	for _, t := range s.Layer2.Transitions {
		r.Transitions = append(r.Transitions, report.Transition{
			Since: t.Since.Time, From: t.From, Addresses: addresses(t.Addresses),
		})
	}
	for _, of := range s.BGP.Sessions {
		is := report.Session{
			Peer: of.Peer, Established: of.State == v1beta1.SessionEstablished, Error: of.LastError, Remote: of.Address,
			Ours: of.State == v1beta1.SessionShutdown || slices.Contains(ours, of.Cause),
		}
		for _, f := range families {
			if slices.Contains(of.Families, inAPI(f)) || r.Mute && slices.Contains(of.Capabilities, f.String()) {
				is.Families = append(is.Families, f)
			}
			for _, n := range of.NotSent {
				if n.Family == inAPI(f) {
					if is.Waits == nil {
						is.Waits = map[lb.Family]string{}
					}
					is.Waits[f] = n.Message
				}
			}
		}
		r.Sessions = append(r.Sessions, is)
	}
	return r
}

var families = [...]lb.Family{lb.IPv4, lb.IPv6}

// inAPI is a family as the API spells it.
func inAPI(f lb.Family) v1beta1.AddressFamily { return v1beta1.AddressFamily(f.String()) }

// interfaceOf is an interface that can announce.
func interfaceOf(i v1beta1.InterfaceStatus) lb.Interface {
	out := lb.Interface{Name: i.Name, Up: true, Carrier: true}
	out.MAC, _ = lb.ParseMAC(i.MAC)
	for _, text := range i.Subnets {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.Addresses = append(out.Addresses, p)
		}
	}
	return out
}

func addresses(list []string) []netip.Addr {
	out, err := ranges.Parse(list)
	if err != nil {
		return nil
	}
	return out
}

func readUse(address, station string) (a netip.Addr, mac lb.MAC, ok bool) {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return a, mac, false
	}
	mac, err = lb.ParseMAC(station)
	return a, mac, err == nil
}

// ours are the causes for which a session ends because we want it to.
var ours = []string{bgp.AdminShutdown.String(), bgp.Reconfigured.String(), bgp.Leave.String()}
