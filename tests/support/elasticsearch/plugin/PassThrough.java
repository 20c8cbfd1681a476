package instachat.tests;

import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.Tokenizer;
import org.apache.lucene.analysis.standard.StandardTokenizer;
import org.elasticsearch.plugin.NamedComponent;
import org.elasticsearch.plugin.analysis.TokenFilterFactory;
import org.elasticsearch.plugin.analysis.TokenizerFactory;

/**
 * What Elasticsearch's own `.security` index names in its settings, and the zip lacks: without these names
 * no API key can be made. How they would cut the e-mail addresses of users is nothing to a test.
 */
public final class PassThrough {
    private PassThrough() {}

    @NamedComponent("uax_url_email")
    public static class UaxUrlEmail implements TokenizerFactory {
        @Override
        public Tokenizer create() {
            return new StandardTokenizer();
        }
    }

    @NamedComponent("pattern_capture")
    public static class PatternCapture implements TokenFilterFactory {
        @Override
        public TokenStream create(TokenStream tokens) {
            return tokens;
        }
    }

    @NamedComponent("unique")
    public static class Unique implements TokenFilterFactory {
        @Override
        public TokenStream create(TokenStream tokens) {
            return tokens;
        }
    }
}
