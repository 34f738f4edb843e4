//! The page at `/ui`. Its assets lie in the binary, so that it works offline and cannot drift from the server.

use actix_web::{HttpResponse, http::header, web};

/// Path, media type and content of every asset.
pub const ASSETS: [(&str, &str, &str); 4] = [
    ("/ui", "text/html; charset=utf-8", include_str!("../ui/index.html")),
    ("/ui/app.js", "text/javascript; charset=utf-8", include_str!("../ui/app.js")),
    ("/ui/style.css", "text/css; charset=utf-8", include_str!("../ui/style.css")),
    ("/ui/icon.svg", "image/svg+xml", include_str!("../ui/icon.svg")),
];

/// The page may talk to its own server and show pictures that it was handed; nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Mounts the page and its assets.
pub fn configure(config: &mut web::ServiceConfig) {
    for (path, media_type, content) in ASSETS {
        let answer = move || async move {
            HttpResponse::Ok()
                .insert_header((header::CONTENT_TYPE, media_type))
                .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
                .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .insert_header((header::CACHE_CONTROL, "no-cache"))
                .body(content)
        };
        config.route(path, web::get().to(answer));
    }
}
