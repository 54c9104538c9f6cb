package lb

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func TestSelectorMatchesLikeKubernetes(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": ""}
	for _, c := range []struct {
		name string
		s    Selector
		want bool
	}{
		{"empty matches everything", nil, true},
		{"in", Selector{{"app", In, []string{"db", "web"}}}, true},
		{"in, absent label", Selector{{"zone", In, []string{""}}}, false},
		{"in, empty value", Selector{{"tier", In, []string{""}}}, true},
		{"not in", Selector{{"app", NotIn, []string{"web"}}}, false},
		{"not in holds for an absent label", Selector{{"zone", NotIn, []string{"a"}}}, true},
		{"exists", Selector{{"tier", Exists, nil}}, true},
		{"does not exist", Selector{{"tier", DoesNotExist, nil}}, false},
		{"all must hold", Selector{{"app", Exists, nil}, {"zone", Exists, nil}}, false},
		{"unknown operator matches nothing", Selector{{"app", Operator(9), nil}}, false},
	} {
		if got := LabelsOf(labels).SelectedBy([]Selector{c.s}); got != c.want {
			t.Errorf("%v of a Service: %v", c.s, got)
		}
		if got := c.s.Matches(labels); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if MatchesAny(nil, labels) {
		t.Error("no selectors match something")
	}
}

func TestTrafficGoesToReadyEndpointsThenToThoseThatTerminate(t *testing.T) {
	some := NodeEndpoints{"a": {Ready: 1, Terminating: 1}, "b": {Terminating: 1}, "c": {}}
	last := NodeEndpoints{"b": {Terminating: 1}, "c": {}}
	for _, c := range []struct {
		endpoints NodeEndpoints
		policy    TrafficPolicy
		node      string
		want      Serving
	}{
		{some, TrafficCluster, "c", Steady},
		{some, TrafficCluster, "elsewhere", Steady},
		{last, TrafficCluster, "c", Ending},
		{NodeEndpoints{"c": {}}, TrafficCluster, "c", Idle},
		{nil, TrafficCluster, "c", Idle},
		{some, TrafficLocal, "a", Steady},
		{some, TrafficLocal, "b", Ending},
		{some, TrafficLocal, "c", Idle},
		{some, TrafficLocal, "elsewhere", Idle},
	} {
		if got := c.endpoints.Serving(c.policy, c.node); got != c.want {
			t.Errorf("%v: %v on %s: %v, want %v", c.endpoints, c.policy, c.node, got, c.want)
		}
	}
}

func TestInterfaceFaultNamesTheFirstThingToMend(t *testing.T) {
	good := Interface{
		Name: "eth0", MAC: MAC{2, 0, 0, 0, 0, 1}, Up: true, Carrier: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("2001:db8::9/64")},
	}
	if f := good.Fault(); f != InterfaceOK {
		t.Errorf("good interface: %v", f)
	}
	for want, spoil := range map[InterfaceFault]func(*Interface){
		InterfaceLoopback:  func(i *Interface) { i.Loopback = true },
		InterfaceDown:      func(i *Interface) { i.Up, i.Carrier = false, false },
		InterfaceNoCarrier: func(i *Interface) { i.Carrier = false },
		InterfaceNoARP:     func(i *Interface) { i.NoARP = true },
		InterfaceEnslaved:  func(i *Interface) { i.Enslaved = true },
		InterfaceNoMAC:     func(i *Interface) { i.MAC = MAC{} },
		InterfaceSealed:    func(i *Interface) { i.Sealed, i.Up = true, false },
	} {
		i := good
		spoil(&i)
		if f := i.Fault(); f != want {
			t.Errorf("%v, want %v", f, want)
		}
	}
	for addr, want := range map[string]bool{"192.0.2.200": true, "192.0.3.1": false, "2001:db8::1": true, "2001:db8:1::": false} {
		if got := good.OnLink(netip.MustParseAddr(addr)); got != want {
			t.Errorf("OnLink(%s) = %v", addr, got)
		}
	}
}

func TestInterfacesAreEqualWhenNothingDiffers(t *testing.T) {
	a := Interface{Index: 2, Name: "eth0", MAC: MAC{2}, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("2001:db8::9/64")}}
	b := a
	b.Addresses = slices.Clone(a.Addresses)
	if !a.Equal(b) {
		t.Errorf("%v and %v differ", a, b)
	}
	for i, change := range []func(*Interface){
		func(i *Interface) { i.Index++ },
		func(i *Interface) { i.Name = "eth1" },
		func(i *Interface) { i.MAC[5]++ },
		func(i *Interface) { i.Up = true },
		func(i *Interface) { i.Carrier = true },
		func(i *Interface) { i.Loopback = true },
		func(i *Interface) { i.NoARP = true },
		func(i *Interface) { i.Enslaved = true },
		func(i *Interface) { i.Sealed = true },
		func(i *Interface) { i.Addresses = i.Addresses[:1] },
	} {
		c := a
		if change(&c); a.Equal(c) || reflect.DeepEqual(a, c) {
			t.Errorf("change %d makes no difference", i)
		}
	}
}

func TestParseMACRoundTrips(t *testing.T) {
	m := MAC{0x02, 0, 0x5e, 0x10, 0xab, 0x01}
	if got, err := ParseMAC(m.String()); err != nil || got != m {
		t.Errorf("ParseMAC(%s) = %v, %v", m, got, err)
	}
	for _, bad := range []string{"", "02:00", "02:00:5e:10:ab:0g", "02:00:5e:10:ab:01:02", "02005e10ab01"} {
		if _, err := ParseMAC(bad); err == nil {
			t.Errorf("ParseMAC(%q) is accepted", bad)
		}
	}
}

func TestLabelsOfAServiceAreFoundByTheirWholeKeys(t *testing.T) {
	l := LabelsOf(map[string]string{"app": "web", "app.kubernetes.io/name": "a", "empty": "", "z": "last"})
	if l != "app=web,app.kubernetes.io/name=a,empty=,z=last" {
		t.Errorf("%q", l)
	}
	for key, want := range map[string]string{"app": "web", "app.kubernetes.io/name": "a", "empty": "", "z": "last"} {
		if got, ok := l.Get(key); !ok || got != want {
			t.Errorf("%s is %q, %v", key, got, ok)
		}
	}
	for _, key := range []string{"", "ap", "a", "web", "app=web", "last", "name", "app.kubernetes.io"} {
		if got, ok := l.Get(key); ok {
			t.Errorf("%q is %q", key, got)
		}
	}
	if got, ok := LabelsOf(nil).Get(""); ok || LabelsOf(nil) != "" {
		t.Errorf("of no labels one is %q", got)
	}
	if !l.SelectedBy(nil) || l.SelectedBy([]Selector{{{"app", In, []string{"db"}}}}) || !l.SelectedBy([]Selector{{{"app", In, []string{"db"}}}, {{"z", Exists, nil}}}) {
		t.Error("selectors are not or-ed")
	}
}

func TestProtocolsAreSpelledAsInTheAPI(t *testing.T) {
	for name, want := range map[string]Protocol{"TCP": TCP, "UDP": UDP, "SCTP": SCTP, "": TCP, "QUIC": OtherProtocol} {
		if got := ParseProtocol(name); got != want || got != OtherProtocol && name != "" && got.String() != name {
			t.Errorf("%q is %v", name, got)
		}
	}
}
