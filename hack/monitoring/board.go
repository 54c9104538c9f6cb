package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// A board is one dashboard.
type board struct {
	name, title, about string
	rows               []row
}

// A row is panels under a heading.
type row struct {
	title  string
	panels []panel
}

// A panel shows queries over time, or their newest value.
type panel struct {
	title, about, unit string
	newest             bool
	queries            []query
}

// A query is one of a panel's, and how its series are called.
type query struct{ expr, legend string }

// source is the Prometheus that whoever looks has chosen.
var source = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}

// build makes a dashboard of it. Each is for one installation: the variable namespace.
// The sidecars that load dashboards from ConfigMaps, and Grafana before 12, know this
// schema and not its successor.
//
//lint:ignore SA1019 as said
func (b board) build() (dashboard.Dashboard, error) {
	//lint:ignore SA1019 see above
	d := dashboard.NewDashboardBuilder("Belfry / "+b.title).
		Uid("belfry-"+b.name).Description(b.about).Tags([]string{"belfry"}).
		Time("now-6h", "now").Refresh("30s").Timezone("browser").Readonly().
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		WithVariable(dashboard.NewQueryVariableBuilder("namespace").Label("Namespace").Datasource(source).
			Query(dashboard.StringOrMap{String: cog.ToPtr("label_values(belfry_build_info, namespace)")}).
			Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Multi(true).IncludeAll(true).AllValue(".*").
			Current(dashboard.VariableOption{
				Text: dashboard.StringOrArrayOfString{String: cog.ToPtr("All")}, Value: dashboard.StringOrArrayOfString{String: cog.ToPtr("$__all")},
			}))
	id := uint32(0)
	for _, r := range b.rows {
		id++
		d.WithRow(dashboard.NewRowBuilder(r.title).Id(id))
		for _, p := range r.panels {
			id++
			d.WithPanel(p.build(id))
		}
	}
	return d.Build()
}

func (p panel) build(id uint32) cog.Builder[dashboard.Panel] {
	var targets []cog.Builder[variants.Dataquery]
	for i, q := range p.queries {
		t := prometheus.NewDataqueryBuilder().Expr(q.expr).LegendFormat(q.legend).RefId(string(rune('A' + i)))
		if p.newest {
			t.Instant()
		} else {
			t.Range()
		}
		targets = append(targets, t)
	}
	if p.newest {
		return stat.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).
			Height(4).Span(4).GraphMode(common.BigValueGraphModeNone).NoValue("0").Targets(targets)
	}
	return timeseries.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).
		Height(8).Span(12).Min(0).FillOpacity(10).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom)).Targets(targets)
}
