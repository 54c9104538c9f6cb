package migrate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// renamed are the fields of MetalLB's ConfigMap, which it had until version 0.12, by what
// its API calls them.
var renamed = map[string]string{
	"my-asn": "myASN", "peer-asn": "peerASN", "peer-address": "peerAddress", "peer-port": "peerPort", "source-address": "sourceAddress",
	"hold-time": "holdTime", "keepalive-time": "keepaliveTime", "router-id": "routerID", "node-selectors": "nodeSelectors",
	"match-labels": "matchLabels", "match-expressions": "matchExpressions", "bfd-profile": "bfdProfile", "ebgp-multihop": "ebgpMultiHop",
	"auto-assign": "autoAssign", "avoid-buggy-ips": "avoidBuggyIPs", "bgp-advertisements": "bgpAdvertisements",
	"aggregation-length": "aggregationLength", "aggregation-length-v6": "aggregationLengthV6", "localpref": "localPref",
	"receive-interval": "receiveInterval", "transmit-interval": "transmitInterval", "detect-multiplier": "detectMultiplier",
	"echo-interval": "echoInterval", "echo-mode": "echoMode", "passive-mode": "passiveMode", "minimum-ttl": "minimumTtl",
}

// rename gives fields the names that they have in the API. Labels keep theirs.
func rename(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = rename(v[i])
		}
	case map[string]any:
		out := map[string]any{}
		for name, value := range v {
			if name != "match-labels" {
				value = rename(value)
			}
			out[cmp.Or(renamed[name], name)] = value
		}
		return out
	}
	return v
}

// configMap is what notes call MetalLB's ConfigMap.
const configMap = "ConfigMap"

// legacy translates what is in a ConfigMap of MetalLB's. Its peers have no names.
func (t *Translation) legacy(body json.RawMessage) {
	f := &fields{object: configMap, of: map[string]any{}, t: t}
	if !f.read(body) {
		return
	}
	f.of = rename(f.of).(map[string]any)
	each := func(list string, translate func(*Translation, Metadata, *fields), name func(i int, p *fields) string) {
		for i, p := range f.parts(list) {
			m := Metadata{Name: name(i, p)}
			if m.Name == "" {
				p.note("name", "there is none: it is left out")
				continue
			}
			translate(t, m, p)
			p.rest()
		}
	}
	named := func(_ int, p *fields) string { return p.text("name") }
	each("address-pools", (*Translation).oldPool, named)
	each("bfd-profiles", (*Translation).bfdProfile, named)
	each("peers", (*Translation).bgpPeer, func(i int, p *fields) string { return cmp.Or(p.text("name"), fmt.Sprintf("peer%d", i+1)) })
	if aliases := f.part("bgp-communities"); len(aliases.of) > 0 {
		list := []any{}
		for _, name := range slices.Sorted(maps.Keys(aliases.of)) {
			list = append(list, map[string]any{"name": name, "value": aliases.of[name]})
		}
		t.community(Metadata{Name: "communities"}, f.below("bgp-communities", map[string]any{"communities": list}))
	}
	f.rest()
}
