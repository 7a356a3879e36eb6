package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Build says which program this is: the labels of tarn_build_info.
type Build struct {
	Version   string
	Revision  string
	GoVersion string
}

// NewRegistry returns a registry with the Go runtime, the process and build.
// Each process has exactly one; there is no global registry.
func NewRegistry(build Build) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tarn_build_info",
		Help: "Always 1; the labels say which build this is.",
	}, []string{"version", "revision", "goversion"})
	info.WithLabelValues(build.Version, build.Revision, build.GoVersion).Set(1)
	reg.MustRegister(
		info,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return reg
}

// scrape limits: more than this many at once, or slower than this, is a broken scraper.
const (
	scrapesInFlight = 4
	scrapeTimeout   = 30 * time.Second
)

// Handler serves what gatherer holds. A collector that fails leaves the rest visible.
func Handler(gatherer prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapesInFlight,
		Timeout:             scrapeTimeout,
		EnableOpenMetrics:   true,
	})
}

// maker registers what it makes; a name taken twice is a bug of the caller and
// panics at start-up, where it cannot be missed.
type maker struct{ reg prometheus.Registerer }

func (m maker) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.reg.MustRegister(v)
	return v
}

func (m maker) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.reg.MustRegister(v)
	return v
}

func (m maker) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.reg.MustRegister(v)
	return v
}

// Buckets in seconds. RPCs are fast or stuck; steps last from a tiny delta to a
// full copy of a large share.
func rpcBuckets() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60}
}

func stepBuckets() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 15, 60, 300, 1800, 7200, 43200}
}
