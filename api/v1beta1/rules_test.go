package v1beta1_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/lb"
)

// refused has, for the message of each CEL rule, values that break that rule and
// no other, wherever the rule stands. A value that is an object is merged into
// the one that is there, and nil removes a field.
var refused = map[string][]any{
	// IPAddressPool
	"want an address, a CIDR or a range of two addresses joined by '-', IPv4 or IPv6, without zone and not IPv4-mapped": {
		"edge", "192.0.2.256", "192.0.2.01", "192.0.2.0/33", "2001:db8::/129", "192.0.2.1-", "-192.0.2.1", "-", "--",
		"192.0.2.1-192.0.2.3-192.0.2.9", "192.0.2.0/24-192.0.3.0/24", "192.0.2.1,192.0.2.2", " 192.0.2.1",
		"::ffff:192.0.2.1", "::ffff:192.0.2.0/120", "2001:db8::1%eth0", "2001:db8::1%eth0-2001:db8::2",
	},
	"a CIDR must have no bits set beyond its prefix length; for a part of a network write a range": {"192.0.2.1/24", "2001:db8::1/64"},
	"both ends of a range must be of the same family":                                              {"192.0.2.1-2001:db8::1", "2001:db8::1 - 192.0.2.1"},
	"the first address of a range must not be above the last": {
		"192.0.2.10-192.0.2.9", "192.0.3.0-192.0.2.255", "200.0.0.0 - 128.0.0.1", "2001:db8::10-2001:db8::9", "9::-5::", "2001:DB8::a-2001:db8::9",
	},
	"must not contain unspecified, loopback, multicast, broadcast, IPv4-mapped or IPv6 link-local addresses": {
		"0.0.0.0", "0.0.0.0/0", "127.0.0.1", "126.0.0.1-127.0.0.1", "224.0.0.0/24", "192.0.0.0/2", "223.0.0.1-224.0.0.1", "255.255.255.255", "240.0.0.0/4",
		"::", "::1", "::/0", "::2-1::", "fe80::1", "fe80::/10", "fec0::1", "fd00::-fe80::", "ff02::1", "fd00::-ff02::1",
	},
	"must not reach across the loopback or multicast addresses": {"10.0.0.0-200.0.0.0", "200.0.0.0-250.0.0.0"},

	// Selectors and names
	"matchLabels: every key must be a label key, such as app or example.com/zone": {
		node{"-app": "web"}, node{"": "web"}, node{"a/b/c": "web"}, node{"Example.com/app": "web"}, node{"app?": "web"}, node{strings.Repeat("a", 64): "web"},
	},
	"matchExpressions: operators In and NotIn need values, Exists and DoesNotExist take none": {
		node{"operator": "In", "values": nil},
		node{"operator": "NotIn", "values": []any{}},
		node{"operator": "Exists", "values": []any{"a"}},
		node{"operator": "DoesNotExist", "values": []any{"a"}},
	},
	"key must be a label key, such as app or example.com/zone":                                        {"-app", "a/b/c", "/app", "app?", strings.Repeat("a", 64)},
	"a label value has letters, digits, '-', '_' and '.', and starts and ends with a letter or digit": {"a b", "-a", "a.", "ä"},
	"a name has lower-case letters, digits, '-' and '.', and starts and ends with a letter or digit":  {"Edge", "edge_1", "-edge", "edge.", "a..b"},
	"a namespace has lower-case letters, digits and '-', and starts and ends with a letter or digit":  {"Web", "web.shop", "-web", "web-"},
	"a duration is written like 90s, 1h30m or 250ms, and is not negative":                             {"-5s", "90", "soon", "5d", "1s1h", "999999h"},
	"an interface has no blanks, '/', ':' or '\\' in its name":                                        {"a b", "eth0:1", "a/b", `a\b`, "a\tb"},
	"an interface name has at most 15 characters":                                                     {"averylongname_16"},
	"an interface pattern has sets in brackets such as eth[0-3], and every bracket is closed":         {"eth[0", "eth0]", "eth[]", "eth[^]", "eth[a-]", "eth[[a]"},
	"a device name has no blanks, '/' or ':'":                                                         {"a b", "eth0:1", "a/b", ".", ".."},

	// BGPPeer
	"exactly one of peerASN and dynamicASN must be set": {
		node{"peerASN": 65001, "dynamicASN": "internal", "role": nil, "requireRole": nil}, node{"peerASN": nil, "dynamicASN": nil},
	},
	"exactly one of peerAddress and interface must be set": {
		node{"sourceAddress": nil, "ebgpMultiHop": nil, "peerAddress": "192.0.2.1", "interface": "eth0"},
		node{"sourceAddress": nil, "ebgpMultiHop": nil, "peerAddress": nil, "interface": nil},
	},
	"only one of ttlSecurity and ebgpMultiHop may be set": {node{"ttlSecurity": 1, "ebgpMultiHop": true}},
	"ebgpMultiHop needs peerAddress: a router found on an interface is one hop away": {
		node{"ttlSecurity": nil, "sourceAddress": nil, "peerAddress": nil, "interface": "eth0", "ebgpMultiHop": true},
	},
	"sourceAddress needs peerAddress: on an interface the session runs between link-local addresses": {
		node{"ebgpMultiHop": nil, "peerAddress": nil, "interface": "eth0", "sourceAddress": "192.0.2.1"},
	},
	"sourceAddress must be of the same family as peerAddress": {
		node{"peerAddress": "192.0.2.1", "sourceAddress": "2001:db8::1"}, node{"peerAddress": "2001:db8::1", "sourceAddress": "192.0.2.1"},
	},
	"keepaliveTime must be at most a third of holdTime, so that a message that is lost does not end the session": {
		node{"holdTime": "3s", "keepaliveTime": "3s"}, node{"holdTime": "9s", "keepaliveTime": "4s"}, node{"holdTime": nil, "keepaliveTime": "31s"},
	},
	"role needs a router of another autonomous system": {
		node{"role": "peer", "localASN": nil, "peerASN": 65000, "myASN": 65000},
		node{"role": "customer", "localASN": 65010, "peerASN": 65010},
		node{"role": "rs", "peerASN": nil, "dynamicASN": "internal"},
	},
	"requireRole needs role": {node{"role": nil, "requireRole": true}},
	"routerID is written like an IPv4 address and is not 0.0.0.0": {"0.0.0.0", "2001:db8::1", "7", "192.0.2.256"},
	"holdTime must be 0s or from 3s to 65535s": {
		beside{"1s", node{"keepaliveTime": nil}}, beside{"2s", node{"keepaliveTime": nil}}, "65536s", "19h",
	},
	"holdTime must be written in whole seconds":                                     {"90.5s", beside{"3000ms", node{"keepaliveTime": nil}}},
	"keepaliveTime must be from 1s to 21845s":                                       {"0s"},
	"keepaliveTime must be written in whole seconds":                                {"1.5s", "3000ms"},
	"connectTime must be from 1s to 65535s":                                         {"0s", "999ms", "65536s"},
	"restartTime must be from 1s to 4095s":                                          {"0s", "4096s"},
	"restartTime must be written in whole seconds":                                  {"1.5s", "3000ms"},
	"longLived must be at most 16777215s":                                           {"16777216s"},
	"longLived must be written in whole seconds":                                    {"1.5s", "3000ms"},
	"longLived needs enabled":                                                       {node{"enabled": false, "longLived": "1h"}},
	"shutdownMessage has at most 255 bytes":                                         {strings.Repeat("ä", 128)},
	"23456 and 65535 are reserved and cannot be the number of an autonomous system": {23456, 65535},
	"want an IPv4 or IPv6 address, without zone and not IPv4-mapped":                {"tor", "192.0.2.0/24", "2001:db8::1%eth0", "::ffff:192.0.2.1"},
	"must not be the unspecified or a multicast address": {
		beside{"0.0.0.0", node{"peerAddress": "192.0.2.1", "sourceAddress": "192.0.2.2"}},
		beside{"224.0.0.5", node{"peerAddress": "192.0.2.1", "sourceAddress": "192.0.2.2"}},
		"::", "ff02::5",
	},
	"must not be link-local: name the interface instead": {"fe80::1"},

	// BGPAdvertisement and Community
	"want a:b, large:a:b:c or a name":                                                    {"64512:", "1:2:3", "01:2", "large:1:2", "large:1:2:3:4", "-1:2", "9lives", "a b"},
	"want a:b, large:a:b:c or a well-known community":                                    {"64512:", "1:2:3", "01:2", "large:1:2", "customer-1", "internet"},
	"the numbers of a:b are at most 65535, those of large:a:b:c at most 4294967295":      {"65536:1", "1:99999", "large:4294967296:0:0", "large:0:0:9999999999"},
	"a community's name has letters, digits, '-', '.' and '_', and begins with a letter": {"9lives", "a b", "64512:1", "a-"},
	"a well-known community cannot be given another meaning":                             {"no-export", "no-advertise", "no-peer", "graceful-shutdown", "blackhole"},
}

// A beside is a value that needs other fields of the spec to be what they are
// not in testdata, to break no other rule.
type beside struct {
	value any
	spec  node
}

// Every rule of every CRD is broken at every place where it stands, by values
// that break nothing else; the answer is the rule's message at that place.
func TestEveryRuleRefusesWhatBreaksItAtEveryPlace(t *testing.T) {
	j := newJudge(t)
	unused := maps.Clone(refused)
	for _, d := range definitions(t) {
		objects := examples(t, d.kind)
		for _, s := range sites(d) {
			rules, _ := s.schema["x-kubernetes-validations"].([]any)
			for _, r := range rules {
				message := r.(node)["message"].(string)
				within, _ := r.(node)["fieldPath"].(string)
				values := refused[message]
				delete(unused, message)
				if len(values) == 0 {
					t.Errorf("%s: nothing breaks the rule at %s: %s", d.kind, s.path, message)
				}
				for _, value := range values {
					p := s.in(objects)
					if p == nil {
						continue // told by TestObjectsWithEveryFieldAreAccepted
					}
					if b, ok := value.(beside); ok {
						(&place{value: p.object["spec"]}).replace(b.spec)
						value = b.value
					}
					p.replace(value)
					causes := j.try(t, d, s.root(), p.object)
					if len(causes) != 1 || !p.is(causes[0], within) || !strings.HasSuffix(causes[0].Message, ": "+message) {
						t.Errorf("%s: %v at %s: got %v, want only %q", d.kind, value, p.field+within, causes, message)
					}
				}
			}
		}
	}
	for message := range unused {
		t.Errorf("no rule says %q", message)
	}
}

// replace puts a value in a place, or merges it with the object there.
func (p *place) replace(value any) {
	patch, merge := value.(node)
	if !merge {
		if n, ok := value.(int); ok {
			value = int64(n)
		}
		p.set(value)
		return
	}
	is := p.value.(node)
	for key, v := range patch {
		if n, ok := v.(int); ok {
			v = int64(n)
		}
		if is[key] = v; v == nil {
			delete(is, key)
		}
	}
}

// accepted has, for places where it is not obvious, what must be let through.
var accepted = map[string]map[string][]any{
	"IPAddressPool": {
		"spec.addresses[]": {
			"192.0.2.1", "192.0.2.1/32", "192.0.2.0/24", "192.0.2.9-192.0.2.10", "192.0.2.9 -  192.0.2.9", "1.0.0.0-126.255.255.255",
			"128.0.0.0-223.255.255.255", "240.0.0.0-255.255.255.254", "169.254.1.0/24",
			"2001:db8::7", "2001:DB8:0::1", "2001:db8::/128", "2000::/3", "2001:db8::9-2001:db8::10", "2001:db8:0:0:0:0:0:1 - 2001:db8::1",
			"64:ff9b::192.0.2.1", "fc00::-fe7f::", "2001:0db8:0000:0000:0000:0000:192.100.200.100 - 2001:0db8:0000:0000:0000:0000:192.100.200.101",
		},
		"spec.retention": {"0", "0s", "90s", "1h30m", "250ms", "1.5s", "99999h"},
		"spec":           {node{"excludeAddresses": nil, "serviceAllocation": nil, "autoAssign": nil, "orphanPolicy": nil, "strategy": nil, "retention": nil, "drain": nil}},
	},
	"L2Advertisement": {
		"spec":              {node{"ipAddressPools": nil, "interfaces": nil, "excludeInterfaces": nil, "nodeSelectors": []any{node{}}}},
		"spec.interfaces[]": {"eth0", "*", "?", "eth[0-35-7]", "[a-z]*", "a-b.c_d@e", "averylongpattern*with*stars"},
	},
	"BGPPeer": {
		"spec.holdTime":                    {"9s", "65535s", "18h12m15s"},
		"spec.keepaliveTime":               {"1s", "3s"},
		"spec.peerAddress":                 {"2001:db8::7", "2001:DB8::7"},
		"spec.peerASN":                     {1, 23457, 4294967294},
		"spec":                             {node{"keepaliveTime": nil, "holdTime": nil}, node{"keepaliveTime": nil, "holdTime": "3s"}, node{"keepaliveTime": "1s", "holdTime": "3s"}, node{"sourceAddress": nil, "peerAddress": "192.0.2.7"}},
		"spec.interface":                   {"eth0", "bond0.100", "a-b_c@d"},
		"spec.gracefulRestart":             {node{"enabled": false, "longLived": "0s"}},
		"spec.shutdownMessage":             {"", strings.Repeat("ä", 127)},
		"spec.passwordSecret":              {node{"name": "a.b-c"}},
		"spec.addressFamilies":             {[]any{}, []any{"IPv6"}},
		"spec.gracefulRestart.restartTime": {"1s", "4095s", "1h"},
	},
	"BGPAdvertisement": {
		"spec.communities[]": {"0:0", "65535:65535", "large:0:0:0", "large:4294967295:4294967295:4294967295", "blackhole", "a", "Customer_1.a-b"},
		"spec.localPref":     {0},
	},
	"Community": {
		"spec.communities[].value": {"0:0", "65535:65535", "large:0:0:0", "no-peer"},
	},
}

func TestNothingElseIsRefused(t *testing.T) {
	j := newJudge(t)
	for _, d := range definitions(t) {
		table := maps.Clone(accepted[d.kind])
		for _, s := range sites(d) {
			for _, value := range table[s.path] {
				p := s.in(examples(t, d.kind))
				p.replace(value)
				if causes := j.try(t, d, s.root(), p.object); len(causes) > 0 {
					t.Errorf("%s: %v at %s is refused: %v", d.kind, value, p.field, causes)
				}
			}
			delete(table, s.path)
		}
		for path := range table {
			t.Errorf("%s has no %s", d.kind, path)
		}
	}
	empty := map[string]bool{"L2Advertisement": true, "BGPAdvertisement": true, "BFDProfile": true}
	for _, d := range definitions(t) {
		if d.schema["spec"] == nil {
			continue
		}
		causes := j.try(t, d, "spec", node{"apiVersion": v1beta1.SchemeGroupVersion.String(), "kind": d.kind})
		if got := len(causes) == 0; got != empty[d.kind] {
			t.Errorf("%s without a spec: %v", d.kind, causes)
		}
	}
}

// What the API server lets through, Belfry understands, and the other way
// round: on random texts made of the pieces that matter.
func TestTheSchemaAndTheParserAgree(t *testing.T) {
	j := newJudge(t)
	for _, c := range []struct {
		kind, path string
		pieces     []string
		understood func(string) bool
		// stricter is set where the schema may refuse what is understood.
		stricter bool
	}{
		{"IPAddressPool", "spec.addresses[]", []string{
			"-", " - ", "-", "-", "/24", "/32", "/128", "/64", "/0", "192.0.2.0", "192.0.2.9", "10.0.0.1", "126.0.0.1", "127.0.0.1", "128.0.0.0", "223.255.255.255", "224.0.0.0", "240.0.0.0", "255.255.255.255", "0.0.0.0",
			"2001:db8::", "2001:db8::9", "2001:db8::10", "2001:DB8:0::9", "::", "::1", "::ffff:192.0.2.1", "fe80::", "fe7f::", "ff00::", "1::", "64:ff9b::192.0.2.1", "%eth0", ".", ":", "1",
		}, func(s string) bool { _, err := config.ParseAddressRange(s); return err == nil }, false},
		{"L2Advertisement", "spec.interfaces[]", []string{
			"e", "eth", "0", "[", "]", "[a-c]", "^", "[^", "-", "*", "?", ".", " ", "/", ":", `\`, "longlong", "ä",
		}, func(s string) bool { return config.CheckInterface(s) == nil }, false},
		{"IPAddressPool", "spec.retention", []string{
			"0", "1", "90", "s", "m", "h", "ms", ".5", "-", "+", "1h", "30m", "5s", " ", "us",
		}, func(s string) bool { _, err := config.ParseDuration(v1beta1.Duration(s)); return err == nil }, true},
		{"Community", "spec.communities[].value", []string{
			"large", ":", ":", "0", "1", "65535", "65536", "4294967295", "4294967296", "no-export", "blackhole", "+", "-", "01", "no-peer",
		}, func(s string) bool { _, err := lb.ParseCommunity(s); return err == nil }, true},
	} {
		all := definitions(t)
		d := all[slices.IndexFunc(all, func(d definition) bool { return d.kind == c.kind })]
		places := sites(d)
		at := places[slices.IndexFunc(places, func(s site) bool { return s.path == c.path })]
		rng := rand.New(rand.NewPCG(5, 5))
		seen, yes := map[string]bool{}, 0
		for len(seen) < 400 {
			var text string
			for range 1 + rng.IntN(5) {
				text += c.pieces[rng.IntN(len(c.pieces))]
			}
			if len(text) > 30 || seen[text] {
				continue
			}
			seen[text] = true
			p := at.in(examples(t, c.kind))
			p.set(text)
			causes := j.try(t, d, at.root(), p.object)
			understood := c.understood(text)
			if understood {
				yes++
			}
			if (len(causes) == 0) != understood && !(c.stricter && understood) {
				t.Errorf("%s: %q: understood: %t, the API server: %v", c.path, text, understood, causes)
			}
			if slices.ContainsFunc(causes, func(c metav1.StatusCause) bool { return strings.Contains(c.Message, "rule evaluation error") }) {
				t.Errorf("%s: %q: a rule fails: %v", c.path, text, causes)
			}
		}
		t.Logf("%s: %d of %d texts understood", c.path, yes, len(seen))
	}
}
