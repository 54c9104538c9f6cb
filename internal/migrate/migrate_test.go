package migrate

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// objects are MetalLB's, each with every field that its kind has or had.
func objects(t *testing.T) (out []Object) {
	t.Helper()
	for _, text := range []string{
		`{"apiVersion":"metallb.io/v1beta1","kind":"IPAddressPool","metadata":{"name":"edge","labels":{"tier":"front","team":"net"}},"spec":{"addresses":["203.0.113.0/28","2001:db8::1-2001:db8::9"],"autoAssign":false,"avoidBuggyIPs":true,
			"serviceAllocation":{"priority":5,"namespaces":["web"],"namespaceSelectors":[{"matchLabels":{"a":"b"}}],"serviceSelectors":[{"matchExpressions":[{"key":"a","operator":"Exists"}]}]}}}`,
		`{"apiVersion":"metallb.io/v1beta1","kind":"AddressPool","metadata":{"name":"old2"},"spec":{"protocol":"layer2","addresses":["203.0.113.32/28"],"autoAssign":true,"avoidBuggyIPs":false}}`,
		`{"apiVersion":"metallb.io/v1alpha1","kind":"AddressPool","metadata":{"name":"old3"},"spec":{"protocol":"bgp","addresses":["203.0.113.48/28"],"bgpAdvertisements":[{"aggregationLength":30,"aggregationLengthV6":120,"localPref":7,"communities":["1:2"]}]}}`,
		`{"apiVersion":"metallb.io/v1beta1","kind":"L2Advertisement","metadata":{"name":"edge"},"spec":{"ipAddressPools":["edge"],"ipAddressPoolSelectors":[{"matchLabels":{"tier":"front"}}],"nodeSelectors":[{}],"interfaces":["eth0"],"serviceSelectors":[{"matchLabels":{"a":"b"}}]}}`,
		`{"apiVersion":"metallb.io/v1beta1","kind":"BGPAdvertisement","metadata":{"name":"edge"},"spec":{"ipAddressPools":["edge"],"ipAddressPoolSelectors":[{}],"nodeSelectors":[{}],"peers":["tor1"],"aggregationLength":32,"aggregationLengthV6":128,"localPref":0,"communities":["name"],"serviceSelectors":[{}]}}`,
		`{"apiVersion":"metallb.io/v1beta1","kind":"Community","metadata":{"name":"names"},"spec":{"communities":[{"name":"name","value":"1:2"}]}}`,
		`{"apiVersion":"metallb.io/v1beta1","kind":"BFDProfile","metadata":{"name":"fast"},"spec":{"receiveInterval":10,"transmitInterval":20,"detectMultiplier":5,"echoInterval":50,"echoMode":false,"passiveMode":true,"minimumTtl":250}}`,
		`{"apiVersion":"metallb.io/v1beta2","kind":"BGPPeer","metadata":{"name":"tor1"},"spec":{"myASN":64500,"peerASN":64501,"peerAddress":"203.0.113.254","sourceAddress":"203.0.113.1","peerPort":1179,"holdTime":"9s","keepaliveTime":"3s","connectTime":"5s","routerID":"192.0.2.1",
			"nodeSelectors":[{"matchLabels":{"a":"b"}}],"password":"","passwordSecret":{"name":"tor1","namespace":"metallb-system"},"bfdProfile":"fast","enableGracefulRestart":true,"ebgpMultiHop":true,"vrf":"red","disableMP":true,"dualStackAddressFamily":false}}`,
		`{"apiVersion":"metallb.io/v1beta2","kind":"BGPPeer","metadata":{"name":"tor2"},"spec":{"myASN":64500,"dynamicASN":"external","interface":"eth1","dualStackAddressFamily":true,"disableMP":false}}`,
	} {
		var o Object
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// Every field of every kind of MetalLB's is taken: none of these objects, which have them
// all, leaves anything to say.
func TestEachFieldOfMetalLBIsTaken(t *testing.T) {
	tr := metalLB.Translate(Origin{Objects: objects(t)})
	if len(tr.Notes) > 0 {
		t.Errorf("notes %v", tr.Notes)
	}
	if len(tr.Pools) != 3 || len(tr.L2Advertisements) != 2 || len(tr.BGPAdvertisements) != 2 || len(tr.BGPPeers) != 2 || len(tr.Communities) != 1 || len(tr.BFDProfiles) != 1 {
		t.Errorf("%d pools, %d and %d advertisements, %d peers, %d communities, %d profiles", len(tr.Pools), len(tr.L2Advertisements), len(tr.BGPAdvertisements), len(tr.BGPPeers), len(tr.Communities), len(tr.BFDProfiles))
	}
	p := tr.BGPPeers[0].Spec
	if p.PeerPort != 1179 || p.KeepaliveTime != "3s" || p.VRF != "red" || p.RouterID != "192.0.2.1" || !p.EBGPMultiHop || !p.GracefulRestart.Enabled || p.PasswordSecret.Name != "tor1" || len(p.AddressFamilies) != 0 {
		t.Errorf("tor1 becomes %+v", p)
	}
	if got := tr.Pools[0].Labels; !reflect.DeepEqual(got, map[string]string{"tier": "front"}) {
		t.Errorf("pool edge has the labels %v, and is selected by tier alone", got)
	}
	if a := tr.BGPAdvertisements[1].Spec; a.LocalPref != nil {
		t.Errorf("local preference 0, which MetalLB does not send, becomes %d", *a.LocalPref)
	}
}

// The order in which objects are listed changes nothing.
func TestATranslationDoesNotDependOnTheOrder(t *testing.T) {
	want := metalLB.Translate(Origin{Objects: objects(t)})
	for range 20 {
		shuffled := objects(t)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got := metalLB.Translate(Origin{Objects: shuffled}); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	}
}

// A password is shown by no note, whatever it is written as.
func TestNoNoteShowsAPassword(t *testing.T) {
	const secret = "314159265"
	for _, spec := range []string{`{"password":` + secret + `}`, `{"password":["` + secret + `"]}`, `{"passwordOfTheRouter":"` + secret + `"}`} {
		tr := metalLB.Translate(Origin{
			Objects:    []Object{{APIVersion: "metallb.io/v1beta2", Kind: "BGPPeer", Metadata: Metadata{Name: "tor"}, Spec: json.RawMessage(spec)}},
			ConfigMaps: []ConfigMap{{Name: "config", Data: map[string]json.RawMessage{"config": json.RawMessage(`{"peers":[` + spec + `]}`)}}},
		})
		if len(tr.Notes) < 2 {
			t.Errorf("%s: %d notes", spec, len(tr.Notes))
		}
		for _, n := range tr.Notes {
			if strings.Contains(n.Text, secret) {
				t.Errorf("%s: %+v", spec, n)
			}
		}
	}
}

// Whatever stands in an object of anybody's, all that it has is translated or noted.
func FuzzTranslate(f *testing.F) {
	for _, source := range Sources {
		for _, kind := range append(source.order, "") {
			for _, spec := range []string{
				`{"addresses":["203.0.113.1/28"],"nodeSelectors":[{"matchLabels":{"a":1}}],"unheard":[1],"peerPort":1.5,"holdTime":"-1s"}`,
				`{"blocks":[{"cidr":"203.0.113.1/28"},{"start":"a"}],"serviceSelector":{"matchLabels":{"io.kubernetes.service.namespace":"a"}},"unheard":{}}`,
				`{"bgpInstances":[{"localASN":1,"peers":[{"name":"A/b","peerConfigRef":{"name":"x"}},{"name":"a-b"}]}]}`,
				`{"local":{"v4pools":[{"pool":"203.0.113.0/28"}]},"remote":{"pool":"x"},"netbox":{"url":"x"}}`,
				`{"cidr-global":"203.0.113.0/29, 203.0.113.8/29","range-web":"","unheard":1}`,
				`[]`,
			} {
				f.Add(source.Name, kind, []byte(spec))
			}
		}
	}
	f.Fuzz(func(t *testing.T, name, kind string, spec []byte) {
		source, known := Find(name)
		if !known {
			return
		}
		var data map[string]json.RawMessage
		_ = json.Unmarshal(spec, &data)
		origin := Origin{
			Objects:    []Object{{Kind: kind, Metadata: Metadata{Name: "x"}, Spec: spec}, {Kind: "CiliumBGPPeerConfig", Metadata: Metadata{Name: "x"}, Spec: spec}},
			ConfigMaps: []ConfigMap{{Name: source.ConfigMap, Data: data}, {Name: source.ConfigMap, Data: map[string]json.RawMessage{"config": spec}}},
		}
		if source.ConfigMap == "" {
			origin.ConfigMaps = nil
		}
		if len(source.Groups) > 0 {
			origin.Objects[0].APIVersion, origin.Objects[1].APIVersion = source.Groups[0]+"/v1", source.Groups[0]+"/v1"
		}
		tr := source.Translate(origin)
		for _, n := range tr.Notes {
			if n.Object == "" || n.Text == "" {
				t.Errorf("an empty note: %+v", n)
			}
		}
		if v, is := data["unheard"]; is && string(v) != "null" && source.kinds[kind] != nil && kind != "CiliumBGPPeeringPolicy" && !mentions(tr.Notes, "unheard") {
			t.Errorf("%s %s: a field that is not known goes without a note: %v", kind, spec, tr.Notes)
		}
	})
}

func mentions(notes []Note, field string) bool {
	for _, n := range notes {
		if strings.HasSuffix(n.Field, field) || n.Field == "" || n.Field == "spec" {
			return true
		}
	}
	return false
}
