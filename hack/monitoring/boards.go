package main

// in selects the installation that whoever looks has chosen.
const in = `{namespace=~"$namespace"}`

// of selects some of its series.
func of(matchers string) string { return `{namespace=~"$namespace", ` + matchers + `}` }

// quantile is a histogram's over the time between two points.
func quantile(q, metric string) string {
	return "histogram_quantile(" + q + ", sum by (le) (rate(" + metric + "_bucket" + in + "[$__rate_interval])))"
}

// rate is the sum of a counter's growth in a second, by a label.
func rate(by, metric, selector string) string {
	return "sum by (" + by + ") (rate(" + metric + selector + "[$__rate_interval]))"
}

var boards = []board{
	{
		"overview", "Overview", "Whether all is well, and where to look if it is not.",
		[]row{
			{"Now", []panel{
				{"Not announced", "Services that hold an address which nothing announces. Those without endpoints do not count.", "short", true, []query{
					{`sum(belfry_services_announced` + of(`announced="false", reason!~"NoEndpoint|NoLocalEndpoint"`) + `)`, ""},
				}},
				{"Waiting", "Services that do not get the address that they ask for.", "short", true, []query{
					{`sum(belfry_services` + of(`waiting="true"`) + `)`, ""},
				}},
				{"Conflicts", "Addresses withheld because a foreign station uses them.", "short", true, []query{
					{`sum(belfry_addresses` + of(`state="withheld"`) + `)`, ""},
				}},
				{"Leaders", "Controllers that lead: one.", "short", true, []query{{`sum(belfry_controller_leader` + in + `)`, ""}}},
				{"Speakers missing", "Nodes whose speaker is lost, or does not report.", "short", true, []query{
					{`sum(belfry_speakers` + of(`state=~"lost|unknown"`) + `)`, ""},
				}},
				{"BGP sessions down", "Sessions of all nodes that are not established.", "short", true, []query{
					{`count(belfry_bgp_session_up` + in + `) - sum(belfry_bgp_session_up` + in + `)`, ""},
				}},
			}},
			{"Services and addresses", []panel{
				{"Services by announcing", "By the condition belfry.dev/Announced.", "short", false, []query{
					{`sum by (announced, reason) (belfry_services_announced` + in + `) > 0`, "{{announced}} {{reason}}"},
				}},
				{"Services by allocation", "By the reason of the condition belfry.dev/Allocated.", "short", false, []query{
					{`sum by (reason) (belfry_services` + in + `) > 0`, "{{reason}}"},
				}},
				{"Addresses", "What becomes of each address by each protocol that is to announce it.", "short", false, []query{
					{`sum by (protocol, state) (belfry_addresses` + in + `)`, "{{protocol}} {{state}}"},
				}},
				{"Objects", "Those that configure Belfry, by the reason of their condition Accepted.", "short", false, []query{
					{`sum by (kind, reason) (belfry_objects` + in + `) > 0`, "{{kind}} {{reason}}"},
				}},
			}},
			{"Programs", []panel{
				{"Speakers", "Nodes by what is known of their speaker.", "short", false, []query{
					{`sum by (state) (belfry_speakers` + in + `)`, "{{state}}"},
				}},
				{"Age of what is known", "For how long something could not be read from the API server.", "s", false, []query{
					{`belfry_config_age_seconds` + in, "{{pod}}"},
				}},
				{"Writes to the API server", "By outcome.", "cps", false, []query{
					{rate("outcome", "belfry_controller_writes_total", in), "{{outcome}}"},
					{rate("result", "belfry_speaker_status_writes_total", in), "SpeakerStatus {{result}}"},
				}},
				{"Versions", "Programs by what they were built from.", "short", false, []query{
					{`count by (program, version) (belfry_build_info` + in + `)`, "{{program}} {{version}}"},
				}},
				{"Events lost", "Events that could not be written.", "cps", false, []query{
					{rate("namespace", "belfry_controller_events_dropped_total", in), "lost"},
				}},
				{"Decisions", "Time to decide, 99th percentile.", "s", false, []query{
					{quantile("0.99", "belfry_controller_pass_seconds"), "controller"},
					{quantile("0.99", "belfry_speaker_pass_seconds"), "speaker, layer 2"},
					{quantile("0.99", "belfry_bgp_pass_seconds"), "speaker, BGP"},
				}},
			}},
		},
	},
	{
		"layer2", "Layer 2", "Who answers for what, how failovers went, and what gossip hears.",
		[]row{
			{"Addresses", []panel{
				{"Addresses by node", "Addresses that each node answers for.", "short", false, []query{
					{`sum by (instance) (belfry_speaker_addresses` + of(`role="owner"`) + `)`, "{{instance}}"},
				}},
				{"Moves", "Addresses that nodes came to own or ceased to, by how.", "cps", false, []query{
					{rate("change", "belfry_speaker_owner_changes_total", in), "{{change}}"},
				}},
				{"Silence at failover", "How long addresses were silent when their owner was lost.", "s", false, []query{
					{quantile("0.5", "belfry_speaker_takeover_seconds"), "median"},
					{quantile("0.99", "belfry_speaker_takeover_seconds"), "99th percentile"},
				}},
				{"Conflicts", "Frames of foreign stations that claim our addresses, and addresses that are withheld.", "short", false, []query{
					{rate("mac", "belfry_speaker_conflicts_total", in), "{{mac}}, frames a second"},
					{`sum(belfry_speaker_addresses_withheld` + in + `)`, "withheld"},
				}},
				{"What segments answer", "Addresses by what another node hears that asks for them: the owner alone (Verified), others too, or nobody.", "short", false, []query{
					{`sum by (verdict) (belfry_speaker_proofs` + in + `)`, "{{verdict}}"},
				}},
				{"Contests", "Claims of other speakers to what a node owns, contests won, and defenses.", "cps", false, []query{
					{rate("instance", "belfry_speaker_rival_claims_total", in), "{{instance}} rival claims"},
					{rate("instance", "belfry_speaker_contests_won_total", in), "{{instance}} won"},
					{rate("instance", "belfry_speaker_defenses_total", in), "{{instance}} defenses"},
				}},
			}},
			{"Segment", []panel{
				{"Questions", "ARP requests and Neighbor Solicitations by what became of them.", "pps", false, []query{
					{rate("family, verdict", "belfry_layer2_requests_total", in), "{{family}} {{verdict}}"},
				}},
				{"Answers", "Replies and announcements.", "pps", false, []query{
					{rate("family", "belfry_layer2_replies_total", in), "{{family}} replies"},
					{rate("form", "belfry_layer2_gratuitous_total", in), "{{form}}"},
				}},
				{"Dropped", "Frames that break their protocol, that the kernel did not take, or that nobody read in time.", "pps", false, []query{
					{rate("reason", "belfry_layer2_malformed_total", in), "{{reason}}"},
					{rate("interface", "belfry_layer2_unsent_total", in), "unsent on {{interface}}"},
					{rate("instance", "belfry_layer2_unheard_total", in), "{{instance}} unread"},
				}},
				{"Addresses by interface", "Addresses answered for on each interface.", "short", false, []query{
					{`sum by (interface, family) (belfry_layer2_addresses` + in + `)`, "{{interface}} {{family}}"},
				}},
			}},
			{"Gossip", []panel{
				{"Members", "Members that each speaker hears, and how many there should be.", "short", false, []query{
					{`sum by (instance) (belfry_gossip_members` + in + `)`, "{{instance}} hears"},
					{`max(belfry_gossip_members_expected` + in + `)`, "expected"},
				}},
				{"Watching each other", "Sessions by which speakers watch each other on their segments.", "short", false, []query{
					{`sum by (family, state) (belfry_detection_sessions` + in + `)`, "{{family}} {{state}}"},
				}},
				{"Silence between speakers", "Sessions that heard nothing for their detection time, those whose node turned out to live, and packets dropped.", "cps", false, []query{
					{rate("instance", "belfry_detection_missed_total", in), "{{instance}} silent"},
					{rate("instance", "belfry_detection_cleared_total", in), "{{instance}} lives"},
					{rate("reason", "belfry_detection_dropped_total", in), "dropped: {{reason}}"},
				}},
				{"Suspicions", "Members that gossip lost, by how that ended.", "cps", false, []query{
					{rate("end", "belfry_gossip_suspicions_total", in), "{{end}}"},
				}},
				{"Doubt", "Time until a lost member recovered or was given up.", "s", false, []query{
					{quantile("0.5", "belfry_gossip_doubt_seconds"), "median"},
					{quantile("0.99", "belfry_gossip_doubt_seconds"), "99th percentile"},
				}},
				{"Dropped", "Packets, streams and records that were dropped, and exchanges that failed.", "cps", false, []query{
					{rate("reason", "belfry_gossip_dropped_total", in), "{{reason}}"},
					{rate("result", "belfry_gossip_exchanges_total", in), "exchanges {{result}}"},
				}},
			}},
		},
	},
	{
		"bgp", "BGP", "Sessions with routers, and what they are told.",
		[]row{
			{"Sessions", []panel{
				{"Established", "Nodes with an established session, by peer.", "short", false, []query{
					{`sum by (peer) (belfry_bgp_session_up` + in + `)`, "{{peer}}"},
				}},
				{"States", "Sessions by state.", "short", false, []query{
					{`sum by (peer, state) (belfry_bgp_session_state` + in + `)`, "{{peer}} {{state}}"},
				}},
				{"Losses", "Sessions lost unasked.", "cps", false, []query{
					{rate("peer, instance", "belfry_bgp_session_flaps_total", in), "{{peer}} {{instance}}"},
				}},
				{"Last error", "Why sessions are down, or fell last.", "short", false, []query{
					{`sum by (peer, cause) (belfry_bgp_session_last_error` + in + `)`, "{{peer}} {{cause}}"},
				}},
				{"BFD", "Nodes whose BFD reaches the router, by peer.", "short", false, []query{
					{`sum by (peer) (belfry_bgp_bfd_up` + in + `)`, "{{peer}}"},
				}},
				{"Age", "How long the youngest session of a peer has been established.", "s", false, []query{
					{`min by (peer) (belfry_bgp_session_uptime_seconds` + in + `)`, "{{peer}}"},
				}},
			}},
			{"Routes", []panel{
				{"Prefixes", "Of all nodes: wanted, sent, unsendable, and those that the router announces.", "short", false, []query{
					{`sum by (peer, kind) (belfry_bgp_prefixes` + in + `)`, "{{peer}} {{kind}}"},
				}},
				{"Messages", "By direction.", "cps", false, []query{
					{rate("peer, direction", "belfry_bgp_messages_total", in), "{{peer}} {{direction}}"},
				}},
				{"UPDATEs", "By direction, and those that are not well formed.", "cps", false, []query{
					{rate("peer, direction", "belfry_bgp_updates_total", in), "{{peer}} {{direction}}"},
					{rate("peer", "belfry_bgp_malformed_updates_total", in), "{{peer}} malformed"},
				}},
			}},
		},
	},
	{
		"allocation", "Allocation", "Pools, and how Services get addresses from them.",
		[]row{
			{"Pools", []panel{
				{"In use", "Share of a pool's addresses that is assigned.", "percentunit", false, []query{
					{`sum by (pool, family) (belfry_pool_addresses` + of(`state="assigned"`) + `) / (sum by (pool, family) (belfry_pool_addresses` + of(`state="total"`) + `) > 0)`, "{{pool}} {{family}}"},
				}},
				{"Available", "Addresses that can be handed out.", "short", false, []query{
					{`sum by (pool, family) (belfry_pool_addresses` + of(`state="available"`) + `)`, "{{pool}} {{family}}"},
				}},
				{"Reserved", "Addresses kept for the Service that held them last.", "short", false, []query{
					{`sum by (pool, family) (belfry_pool_addresses` + of(`state="reserved"`) + `)`, "{{pool}} {{family}}"},
				}},
				{"Orphaned", "Addresses in use that their pool does not cover any more.", "short", false, []query{
					{`sum by (pool, family) (belfry_pool_addresses` + of(`state="orphaned"`) + `)`, "{{pool}} {{family}}"},
				}},
			}},
			{"Services", []panel{
				{"Time to an address", "From the first sight of a Service until its addresses are in its status.", "s", false, []query{
					{quantile("0.5", "belfry_allocation_seconds"), "median"},
					{quantile("0.99", "belfry_allocation_seconds"), "99th percentile"},
				}},
				{"Waiting", "Services that do not get the address that they ask for, by reason.", "short", false, []query{
					{`sum by (reason) (belfry_services` + of(`waiting="true"`) + `)`, "{{reason}}"},
				}},
				{"Writes by kind", "What the controller writes.", "cps", false, []query{
					{rate("kind, outcome", "belfry_controller_writes_total", in) + " > 0 or " + rate("kind", "belfry_controller_writes_total", in), "{{kind}} {{outcome}}"},
				}},
			}},
		},
	},
}
