//! GitHub: issues, repositories, the current user. The REST API of version 2022-11-28.

mod api;
mod issues;
mod repositories;
mod user;

use issues::{close_issue, comment_issue, create_issue, get_issue, list_issues};
use repositories::list_repositories;
use user::current_user;

keyward::connector!(list_issues, get_issue, create_issue, comment_issue, close_issue, list_repositories, current_user,);
